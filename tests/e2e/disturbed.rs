//! Whatever happens to the cloud on the way, the answer is that of the undisturbed run, token for
//! token: the models' next token depends on every id before it, so any other prefix would show.

use std::path::Path;
use std::time::Duration;

use relay::effect::Author;
use relay_chassis::tls::TlsFiles;
use relay_edge::{EdgeSettings, Report};
use relay_tests::cloud::Cloud;
use relay_tests::dealer::Dealer;
use relay_tests::edge::{self, Slm};
use relay_tests::faults::FaultProxy;
use relay_tests::process::CloudProcess;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

const PROMPT: &str = "tell me everything";
/// Slow enough for a kill to fall into a call.
const SLOW: &[&str] = &["--step-delay-ms", "20"];

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_scripted-cloud"))
}

async fn undisturbed() -> Report {
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let report = edge::ask(edge::settings(&cloud.url()), Slm::default(), PROMPT).await.unwrap();
    assert!(report.calls >= 5 && !report.degraded && report.resyncs == 0, "{report:?}");
    report
}

/// The same answer by the same authors, without a call given up.
fn assert_same(disturbed: &Report, undisturbed: &Report) {
    assert_eq!(disturbed.legs, undisturbed.legs);
    assert!(!disturbed.degraded, "{disturbed:?}");
}

/// Answers while `disturb` runs beside it. It is told each time that text arrives how many tokens
/// there are, one message a text, and the edge waits for nobody.
async fn ask_while<F: Future<Output = ()> + Send + 'static>(
    settings: EdgeSettings,
    disturb: impl FnOnce(mpsc::Receiver<usize>) -> F,
) -> Report {
    let (shown, progress) = mpsc::channel(1024);
    let disturbing = tokio::spawn(disturb(progress));
    let mut session = edge::session(settings, Slm::default()).unwrap();
    let mut count = 0;
    let report = edge::answer(&mut session, PROMPT, |_, text| {
        count += text.len();
        let _ = shown.try_send(count);
    });
    let report = report.await.unwrap();
    drop(shown);
    disturbing.await.unwrap();
    report
}

async fn reach(progress: &mut mpsc::Receiver<usize>, tokens: usize) {
    while progress.recv().await.expect("the answer is long enough") < tokens {}
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_evicted_between_all_calls() {
    // One session fits, and another edge asks for its place whenever ours has called.
    let undisturbed = undisturbed().await;
    let cloud = Cloud::start(1, |settings| {
        settings.calls_max = 1;
        settings.queue_calls_max = 0;
        settings.sessions_max = 1;
    });
    let cloud = cloud.await.unwrap();
    let mut ours = edge::session(edge::settings(&cloud.url()), Slm::default()).unwrap();
    let url = cloud.url();
    let mut last = Author::Slm;
    let report = edge::answer(&mut ours, PROMPT, |author, _| {
        if (last, author) == (Author::Llm, Author::Slm) {
            tokio::task::block_in_place(|| Handle::current().block_on(intrude(&url)));
        }
        last = author;
    });
    let report = report.await.unwrap();
    assert_same(&report, &undisturbed);
    assert!(report.resyncs >= 4, "nothing was evicted: {report:?}");
}

/// Another conversation takes the only place for a session.
async fn intrude(url: &str) {
    let slm = Slm { every: 0, call_tokens: 1, total: 20, ..Slm::default() };
    let report = edge::ask(edge::settings(url), slm, "x").await.unwrap();
    assert!(report.llm_tokens > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cloud_killed_in_the_middle_of_a_call_and_started_anew() {
    let undisturbed = undisturbed().await;
    let first = CloudProcess::start(program(), SLOW).await.unwrap();
    let proxy = std::sync::Arc::new(FaultProxy::start(first.address()).await.unwrap());
    let settings = edge::settings(&format!("http://{}", proxy.address()));
    let road = proxy.clone();
    let report = ask_while(settings, move |mut progress| async move {
        // The third token of the first call, and later one of another.
        reach(&mut progress, 3).await;
        let second = CloudProcess::start(program(), SLOW).await.unwrap();
        road.retarget(second.address());
        first.kill().await.unwrap();
        reach(&mut progress, 40).await;
        let third = CloudProcess::start(program(), &[]).await.unwrap();
        road.retarget(third.address());
        second.kill().await.unwrap();
        while progress.recv().await.is_some() {}
        third.kill().await.unwrap();
    });
    let report = report.await;
    assert_same(&report, &undisturbed);
    assert!(report.resyncs >= 2, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_cut_again_and_again() {
    let undisturbed = undisturbed().await;
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let proxy = std::sync::Arc::new(FaultProxy::start(cloud.address()).await.unwrap());
    let settings = edge::settings(&format!("http://{}", proxy.address()));
    let road = proxy.clone();
    let report = ask_while(settings, move |mut progress| async move {
        let mut next = 9;
        while let Some(tokens) = progress.recv().await {
            if tokens >= next {
                road.cut();
                next = tokens + 14;
            }
        }
    });
    assert_same(&report.await, &undisturbed);
    assert!(proxy.connections() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_down_cut_at_many_places() {
    let undisturbed = undisturbed().await;
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    for down_bytes in (20..1200).step_by(37) {
        let proxy = FaultProxy::start(cloud.address()).await.unwrap();
        proxy.cut_after(down_bytes);
        let mut settings = edge::settings(&format!("http://{}", proxy.address()));
        // What comes after the cut goes straight to the cloud.
        settings.clouds.push(cloud.url());
        let report = edge::ask(settings, Slm::default(), PROMPT).await.unwrap();
        assert_eq!(report.legs, undisturbed.legs, "cut after {down_bytes} bytes");
        assert!(proxy.has_cut(), "nothing was cut after {down_bytes} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_change_nothing_but_the_number_of_steps() {
    let undisturbed = undisturbed().await;
    let cloud = Cloud::start(1, |_| ()).await.unwrap();
    let mut settings = edge::settings(&cloud.url());
    settings.draft_tokens_max = 4;
    assert_same(&edge::ask(settings, Slm::default(), PROMPT).await.unwrap(), &undisturbed);
    let mut settings = edge::settings(&cloud.url());
    settings.warm_sync_tokens = Some(3);
    let slm = Slm { step_delay: Duration::from_millis(2), ..Slm::default() };
    let warm = edge::ask(settings, slm, PROMPT).await.unwrap();
    assert_same(&warm, &undisturbed);
    assert!(warm.round_trips > warm.calls, "no warm sync: {warm:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clouds_dealt_in_turn_and_one_of_them_killed() {
    let undisturbed = undisturbed().await;
    let left = CloudProcess::start(program(), SLOW).await.unwrap();
    let right = CloudProcess::start(program(), SLOW).await.unwrap();
    let dealer = Dealer::start(&[left.address(), right.address()]).await.unwrap();
    let settings = edge::settings(&format!("http://{}", dealer.address()));
    let report = ask_while(settings, move |mut progress| async move {
        reach(&mut progress, 40).await;
        left.kill().await.unwrap();
        while progress.recv().await.is_some() {}
        drop(right);
    });
    let report = report.await;
    assert_same(&report, &undisturbed);
    assert!(report.resyncs > 0, "{report:?}");
    assert!(dealer.dealt().await.len() > report.calls as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_gives_the_same_answer_and_no_certificate_none() {
    let undisturbed = undisturbed().await;
    let folder = tempfile::tempdir().unwrap();
    let files = |name: &str| relay_chassis::pki::files_of(folder.path(), name);
    relay_chassis::pki::init(folder.path()).unwrap();
    for (name, usage) in
        [("cloud", relay_chassis::pki::Usage::Server), ("phone", relay_chassis::pki::Usage::Client)]
    {
        let options = relay_chassis::pki::IssueOptions::new(usage, 1);
        relay_chassis::pki::issue(folder.path(), name, &options).unwrap();
    }
    let TlsFiles { certificate, key, authority } = files("cloud");
    let cloud = Cloud::start(1, |settings| {
        settings.insecure = false;
        (settings.tls_certificate, settings.tls_key) = (Some(certificate), Some(key));
        settings.tls_authority = Some(authority);
    });
    let cloud = cloud.await.unwrap();
    let mut settings = edge::settings(&format!("https://localhost:{}", cloud.address().port()));
    settings.insecure = false;
    settings.tls = Some(files("phone"));
    assert_same(&edge::ask(settings, Slm::default(), PROMPT).await.unwrap(), &undisturbed);
    let alone = edge::ask(edge::settings(&cloud.url()), Slm::default(), PROMPT).await.unwrap();
    assert!(alone.degraded && alone.llm_tokens == 0, "{alone:?}");
}
