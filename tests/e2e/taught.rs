//! A teacher over the wire: rollouts and whole GRPO runs that ask a cloud are those that ask a model in
//! their own process, and they stop where the cloud is gone.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use relay::policy::Policy;
use relay_edge::EdgeSettings;
use relay_model::{Sampling, TINY_LLM};
use relay_tests::cloud::Cloud;
use relay_tests::dealer::Dealer;
use relay_tests::faults::FaultProxy;
use relay_tests::tiny;
use relay_train::checkpoint::{self, Checkpoint};
use relay_train::command_line::CommandLine;
use relay_train::evaluation::harness::load_model;
use relay_train::model_folder;
use relay_train::rollout::{Answer, Ask, Rollout, RolloutError, RolloutSettings};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;

const SLM_SEED: u64 = 1;
const LLM_SEED: u64 = 2;

async fn cloud(seed: u64) -> Cloud {
    Cloud::serve(tiny::model(seed).unwrap().0, |_| ()).await.unwrap()
}

fn over(address: SocketAddr) -> Result<Rollout, RolloutError> {
    let clouds = vec![format!("http://{address}")];
    let settings = EdgeSettings { clouds, insecure: true, ..EdgeSettings::default() };
    Rollout::with_cloud(tiny::model(SLM_SEED).unwrap().0, &settings).map(|(rollout, _)| rollout)
}

fn here() -> Rollout {
    let [slm, llm] = [SLM_SEED, LLM_SEED].map(|seed| tiny::model(seed).unwrap().0);
    Rollout::new(slm, Some(llm)).unwrap()
}

fn asks(pair: &Rollout) -> Vec<Ask> {
    let question = |seed| format!("How many sides has a {seed}-gon?");
    let prompt = |seed| pair.tokenizer().encode_bytes(question(seed).as_bytes());
    (3..15).map(|seed| Ask { prompt: prompt(seed), seed }).collect()
}

/// Students draw, as they do in training.
fn settings(policy: Policy, teacher: Sampling) -> RolloutSettings {
    let student = Sampling::at_temperature(1.0);
    let mut settings = RolloutSettings { policy, student, teacher, ..RolloutSettings::default() };
    settings.budget.response_tokens_max = 120;
    // Some answers begin only after others have ended.
    settings.rows_max = 8;
    settings
}

fn answers(pair: &mut Rollout, settings: &RolloutSettings) -> Result<Vec<Answer>, RolloutError> {
    let asks = asks(pair);
    pair.answers(&asks, settings)
}

/// An address at which nothing listens.
async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_teaches_what_a_model_in_the_process_teaches() {
    let cloud = cloud(LLM_SEED).await;
    let dealer = Dealer::start(&[cloud.address()]).await.unwrap();
    let address = dealer.address();
    let taught = spawn_blocking(move || {
        let (mut here, mut there) = (here(), over(address).unwrap());
        let mut calls = 0;
        for (policy, temperature) in [
            (Policy::Learned, 0.0),
            (Policy::Learned, 1.0),
            (Policy::Entropy { threshold_nats: 3.0, probability: 1.0, call_tokens: 3 }, 0.0),
            (Policy::Every { period_tokens: 7, call_tokens: 2 }, 0.8),
            (Policy::Always, 1.0),
            (Policy::Never, 0.0),
        ] {
            let teacher = match temperature {
                0.0 => Sampling::GREEDY,
                drawn => Sampling::at_temperature(drawn),
            };
            let settings = settings(policy, teacher);
            let expected = answers(&mut here, &settings).unwrap();
            // Ids, authors, log-probabilities to the bit, text, legs, accounts and endings.
            assert_eq!(answers(&mut there, &settings).unwrap(), expected, "{policy:?}");
            calls += expected.iter().map(|answer| answer.account.calls).sum::<u32>();
        }
        calls
    });
    let calls = taught.await.unwrap();
    assert!(calls > 50, "{calls} calls show little");
    let (dealt, forgotten) = (dealer.dealt().await, dealer.forgotten().await);
    assert_eq!(dealt.len(), calls as usize);
    let sessions: BTreeSet<_> = dealt.iter().map(|call| call.session_id.clone()).collect();
    let ended: BTreeSet<_> = forgotten.iter().map(|gone| gone.session_id.clone()).collect();
    assert_eq!(ended, sessions, "sessions are left in the cloud");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_changes_no_token() {
    let cloud = cloud(LLM_SEED).await;
    let proxy = FaultProxy::start(cloud.address()).await.unwrap();
    proxy.cut_after(4_000);
    let address = proxy.address();
    let [expected, found] = spawn_blocking(move || {
        let settings =
            settings(Policy::Every { period_tokens: 9, call_tokens: 4 }, Sampling::GREEDY);
        [here(), over(address).unwrap()].map(|mut pair| answers(&mut pair, &settings).unwrap())
    })
    .await
    .unwrap();
    assert!(proxy.has_cut());
    let retries: u32 = found.iter().map(|answer| answer.account.retries).sum();
    assert!(retries > 0, "nothing was cut");
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(found.tokens, expected.tokens);
        assert_eq!((found.text, found.ending), (expected.text, expected.ending));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_teach_is_found_before_a_prompt_leaves() {
    let other = Cloud::start(1, |_| ()).await.unwrap();
    let dealer = Dealer::start(&[other.address()]).await.unwrap();
    let (gone, differs) = (nowhere().await, dealer.address());
    spawn_blocking(move || {
        let error = over(gone).unwrap_err().to_string();
        let begins =
            format!("the large model is gone: http://{gone}/: the cloud cannot be reached");
        assert!(error.starts_with(&begins), "{error}");
        assert!(error.contains("check the address, and that the cloud runs"), "{error}");
        assert!(error.ends_with("run the stage again, it goes on where it stopped"), "{error}");
        let error = over(differs).unwrap_err();
        assert!(matches!(error, RolloutError::VocabularyMismatch), "{error}");
        let (slm, _) = tiny::model(SLM_SEED).unwrap();
        let clouds = vec![format!("http://{differs}")];
        let exposed = EdgeSettings { clouds, ..EdgeSettings::default() };
        let error = Rollout::with_cloud(slm, &exposed).unwrap_err().to_string();
        assert!(error.contains("--insecure"), "{error}");
    })
    .await
    .unwrap();
    assert_eq!(dealer.dealt().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_goes_ends_the_run_and_another_model_is_not_taken_for_it() {
    let (first, second) = (cloud(LLM_SEED).await, cloud(LLM_SEED + 1).await);
    let proxy = FaultProxy::start(first.address()).await.unwrap();
    let (address, nowhere) = (proxy.address(), nowhere().await);
    let settings = settings(Policy::Every { period_tokens: 9, call_tokens: 4 }, Sampling::GREEDY);
    spawn_blocking(move || {
        let mut pair = over(address).unwrap();
        proxy.retarget(second.address());
        proxy.cut();
        let error = answers(&mut pair, &settings).unwrap_err();
        assert!(matches!(error, RolloutError::TeacherChanged { .. }), "{error}");
        assert!(error.to_string().contains("run the stage again"), "{error}");

        proxy.retarget(first.address());
        proxy.cut();
        let mut pair = over(address).unwrap();
        proxy.retarget(nowhere);
        proxy.cut_after(4_000);
        let asks = asks(&pair);
        let mut alone = 0;
        let error = pair.run(&asks, &settings, |_, answer| {
            alone += u32::from(answer.account.degraded);
            Ok::<(), RolloutError>(())
        });
        let error = error.unwrap_err();
        assert!(proxy.has_cut());
        assert!(matches!(error, RolloutError::TeacherGone(_)), "{error}");
        assert_eq!(alone, 0, "an answer went on alone");
    })
    .await
    .unwrap();
}

const GRPO: &str = "seed = 3\nsteps = 3\ncheckpoint_steps = 1\ngroups = 2\ngroup_size = 4\n\
                    updates = 1\nresponse_tokens_max = 120\n[optimiser]\nlearning_rate = 1e-3\n\
                    final_share = 1.0\nwarm_up_steps = 0\nschedule = \"constant\"\nbeta_1 = 0.9\n\
                    beta_2 = 0.99\nepsilon = 1e-8\nweight_decay = 0.0\ngradient_norm_max = 1.0\n";

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn relay_train(words: &[&str]) -> anyhow::Result<()> {
    let words = std::iter::once(&"relay-train").chain(words);
    CommandLine::try_parse_from(words)?.run(&mut Vec::new())
}

/// A place for runs of GRPO.
#[derive(Clone)]
struct Place(PathBuf);

impl Place {
    fn new(folder: &Path) -> Self {
        let place = Self(folder.to_owned());
        std::fs::write(folder.join("grpo.toml"), GRPO).unwrap();
        let draw = "data generate --level short --facts policy --split train --count 12 --out";
        let problems = place.at("problems");
        let draw: Vec<&str> = draw.split(' ').chain([problems.as_str()]).collect();
        relay_train(&draw).unwrap();
        place
    }

    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn run(&self, out: &str, teacher: &[&str]) -> anyhow::Result<()> {
        let student = in_tree("train/runs/warmed");
        let [config, problems, out] = ["grpo.toml", "problems", out].map(|name| self.at(name));
        let words = ["grpo", "--config", &config, "--problems", &problems, "--out", &out];
        let from = ["--from", student.to_str().unwrap(), "--threads", "1"];
        relay_train(&[&words[..], &from, teacher].concat())
    }

    /// The same in a thread of its own, since a run waits for its cloud.
    async fn run_over(&self, out: &'static str, address: SocketAddr) -> anyhow::Result<()> {
        let place = self.clone();
        let run = move || {
            let url = format!("http://{address}");
            place.run(out, &["--cloud", &url, "--insecure"])
        };
        spawn_blocking(run).await.unwrap()
    }

    /// Everything learned, the optimiser's means included.
    fn learned(&self, out: &str) -> Checkpoint<Value> {
        let (weights, _) = model_folder::import(&in_tree("train/runs/warmed")).unwrap();
        let file = Path::new(&self.at(out)).join("checkpoint.safetensors");
        checkpoint::load(&weights, &file).unwrap().unwrap()
    }

    async fn has_logged(&self, out: &str, lines: usize) {
        let log = Path::new(&self.at(out)).join("log.jsonl");
        let logged = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
        while logged() < lines {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpo_learns_from_a_cloud_what_it_learns_from_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path());
    // A model that writes no command stands in for the large one.
    let llm = in_tree("train/runs/pretrained/slm");
    place.run("here", &["--llm", llm.to_str().unwrap()]).unwrap();
    let expected = place.learned("here");

    let cloud = Cloud::serve(load_model(&llm, &TINY_LLM, Some(1)).unwrap(), |_| ()).await.unwrap();
    place.run_over("there", cloud.address()).await.unwrap();
    assert!(place.learned("there") == expected, "a cloud taught something else");

    let proxy = FaultProxy::start(cloud.address()).await.unwrap();
    let (run, kill) = (place.run_over("cut", proxy.address()), async {
        place.has_logged("cut", 1).await;
        assert!(proxy.down_bytes() > 1_000, "the cloud was hardly asked");
        drop(proxy);
    });
    let (cut, ()) = tokio::join!(run, kill);
    let error = format!("{:#}", cut.unwrap_err());
    assert!(error.contains("the large model is gone"), "{error}");
    assert!(error.contains("run the stage again, it goes on where it stopped"), "{error}");
    assert!(place.learned("cut") != expected);
    place.run_over("cut", cloud.address()).await.unwrap();
    assert!(place.learned("cut") == expected, "the run that was cut ended otherwise");
}
