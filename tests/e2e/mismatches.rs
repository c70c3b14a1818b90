//! Clouds that are not what the edge believes: another vocabulary, another model, another
//! authority. The answer always comes, and nothing leaves the device that must not.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use relay::effect::Author;
use relay_chassis::pki::{self, IssueOptions, Usage};
use relay_chassis::tls::TlsFiles;
use relay_edge::{EdgeSettings, Report};
use relay_model::TokenKind;
use relay_model::scripted::byte_tokenizer;
use relay_tests::cloud::{Cloud, scripted};
use relay_tests::dealer::Dealer;
use relay_tests::edge::{self, Slm};
use relay_tests::faults::FaultProxy;
use relay_tests::scripts::llm_rule;

const PROMPT: &str = "a secret";

async fn ask(settings: EdgeSettings) -> Report {
    edge::ask(settings, Slm::default(), PROMPT).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_vocabulary_no_prompt_leaves_the_device() {
    let mut model = scripted(llm_rule(1), Duration::ZERO);
    model.tokenizer = Arc::new(byte_tokenizer(&[("<|other|>", TokenKind::Control)]));
    let cloud = Cloud::serve(model, |_| ()).await.unwrap();
    let dealer = Dealer::start(&[cloud.address()]).await.unwrap();
    let report = ask(edge::settings(&format!("http://{}", dealer.address()))).await;
    assert!(report.degraded && report.llm_tokens == 0 && report.ending == "end_of_text");
    assert_eq!(dealer.dealt().await, []);
    // A cloud that fits is used, whatever stands before it in the list.
    let fitting = Cloud::start(1, |_| ()).await.unwrap();
    let mut settings = edge::settings(&format!("http://{}", dealer.address()));
    settings.clouds.push(fitting.url());
    assert!(ask(settings).await.llm_tokens > 0);
    assert_eq!(dealer.dealt().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_behind_the_same_address_is_flagged() {
    let first = Cloud::start(1, |_| ()).await.unwrap();
    let mut model = scripted(llm_rule(2), Duration::ZERO);
    model.identity.hash = [2; 8];
    let second = Cloud::serve(model, |_| ()).await.unwrap();
    let proxy = FaultProxy::start(first.address()).await.unwrap();
    let settings = edge::settings(&format!("http://{}", proxy.address()));
    let mut session = edge::session(settings, Slm::default()).unwrap();
    let mut moved = false;
    let report = edge::answer(&mut session, PROMPT, |author, _| {
        if author == Author::Llm && !moved {
            proxy.retarget(second.address());
            proxy.cut();
            moved = true;
        }
    });
    let report = report.await.unwrap();
    assert!(report.model_changed && !report.degraded, "{report:?}");
    assert_eq!(report.llm_tokens, 6 * report.calls);
}

/// An authority of its own, with a certificate for a cloud on this machine.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        pki::init(folder.path()).unwrap();
        Self { folder }
    }

    fn issue(&self, name: &str, options: &IssueOptions) -> TlsFiles {
        pki::issue(self.folder.path(), name, options).unwrap()
    }

    async fn cloud(&self, options: &IssueOptions) -> Cloud {
        let files = self.issue("cloud", options);
        let cloud = Cloud::start(1, |settings| {
            settings.insecure = false;
            settings.tls_certificate = Some(files.certificate);
            settings.tls_key = Some(files.key);
            settings.tls_authority = Some(files.authority);
        });
        cloud.await.unwrap()
    }
}

fn tls_settings(cloud: &Cloud, files: TlsFiles) -> EdgeSettings {
    let mut settings = edge::settings(&format!("https://localhost:{}", cloud.address().port()));
    settings.insecure = false;
    settings.tls = Some(files);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_decide_who_talks_to_whom() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (server, client) =
        (IssueOptions::new(Usage::Server, 1), IssueOptions::new(Usage::Client, 1));
    let cloud = ours.cloud(&server).await;
    let phone = ours.issue("phone", &client);
    assert!(ask(tls_settings(&cloud, phone.clone())).await.llm_tokens > 0);

    // A client of another authority, and one that trusts another authority.
    let stranger = theirs.issue("phone", &client);
    let accepted_by_us = TlsFiles { authority: phone.authority.clone(), ..stranger.clone() };
    let trusts_others = TlsFiles { authority: stranger.authority.clone(), ..phone.clone() };
    for files in [accepted_by_us, trusts_others] {
        let report = ask(tls_settings(&cloud, files)).await;
        assert!(report.degraded && report.llm_tokens == 0 && report.round_trips == 0, "{report:?}");
    }

    // An address that the cloud's certificate does not name.
    let proxy = FaultProxy::start_at(Ipv4Addr::new(127, 0, 0, 2), cloud.address()).await.unwrap();
    let mut settings = tls_settings(&cloud, phone);
    settings.clouds = vec![format!("https://{}", proxy.address())];
    let report = ask(settings).await;
    assert!(report.degraded && report.llm_tokens == 0 && proxy.connections() > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_named_before_anything_starts() {
    let ours = Authority::new();
    let cloud = ours.cloud(&IssueOptions::new(Usage::Server, 1)).await;
    let mut expired = IssueOptions::new(Usage::Client, 1);
    expired.valid_from = SystemTime::now() - Duration::from_hours(2);
    expired.valid_until = SystemTime::now() - Duration::from_hours(1);
    let phone = ours.issue("phone", &expired);
    let error = edge::session(tls_settings(&cloud, phone), Slm::default()).unwrap_err().to_string();
    assert!(error.contains("phone") && error.contains("expired"), "{error}");
}
