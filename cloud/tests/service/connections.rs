//! Who may connect, and as whom.

use std::time::Duration;

use relay::refusal::Refusal;
use relay_chassis::pki::{self, IssueOptions, Usage};
use relay_cloud::{CloudSettings, ServeError};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::harness::{Cloud, PATIENCE, Pki, settings};

#[tokio::test]
async fn promise_4_isolation_the_tenant_is_the_certificate() {
    let pki = Pki::new();
    let cloud = Cloud::start(pki.settings()).await;
    let mut phone = cloud.tls_client(&pki.issue("phone", Usage::Client)).await.unwrap();
    let mut tablet = cloud.tls_client(&pki.issue("tablet", Usage::Client)).await.unwrap();
    let text = [5, 6, 7];
    let first = phone.run(phone.request(1, 1, &text, 4)).await.unwrap();
    assert_eq!(first.cached_tokens, Some(0));
    let other = tablet.run(tablet.request(1, 1, &text, 4)).await.unwrap();
    assert_eq!((other.cached_tokens, &other.ids), (Some(0), &first.ids));
    let mut request = tablet.request(2, 1, &text, 4);
    request.base_tokens = 3;
    request.base_hash = relay::prefix::prefix_hash(&text);
    let refused = tablet.run(request).await.unwrap().refused;
    assert!(matches!(refused, Some(Refusal::PrefixUnknown { have_tokens: 0, .. })));
    // A renewed certificate is the same tenant.
    let options = IssueOptions { replace: true, ..IssueOptions::new(Usage::Client, 1) };
    let renewed = pki::issue(pki.folder.path(), "phone", &options).unwrap();
    let mut phone = cloud.tls_client(&renewed).await.unwrap();
    let again = phone.run(phone.request(1, 2, &text, 4)).await.unwrap();
    assert_eq!((again.cached_tokens, again.ids), (Some(3), first.ids));
    cloud.stop().await;
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let pki = Pki::new();
    let cloud = Cloud::start(pki.settings()).await;
    let foreign = Pki::new();
    let mut stranger = foreign.issue("phone", Usage::Client);
    stranger.authority = pki.folder.path().join("ca.pem");
    assert!(cloud.tls_client(&stranger).await.is_err(), "another authority");
    assert!(cloud.tls_client(&pki.issue("phone", Usage::Client)).await.is_ok());
    cloud.stop().await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_and_others_are_served() {
    let pki = Pki::new();
    let limits = CloudSettings { handshake_timeout_ms: 200, handshakes_max: 1, ..pki.settings() };
    let cloud = Cloud::start(limits).await;
    let mut stalled = TcpStream::connect(cloud.address).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, stalled.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open");
    assert!(cloud.tls_client(&pki.issue("phone", Usage::Client)).await.is_ok());
    cloud.stop().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let cloud = Cloud::start(CloudSettings { connections_max: 1, ..settings() }).await;
    let client = cloud.client().await;
    let mut second = TcpStream::connect(cloud.address).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, second.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the second is closed");
    drop(client);
    cloud.stop().await;
}

#[tokio::test]
async fn promise_4_isolation_one_tenant_never_has_all_connections() {
    let pki = Pki::new();
    let cloud = Cloud::start(CloudSettings { connections_max: 4, ..pki.settings() }).await;
    let [phone, tablet] = ["phone", "tablet"].map(|name| pki.issue(name, Usage::Client));
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(cloud.tls_client(&phone).await.unwrap());
    }
    assert!(cloud.tls_client(&phone).await.is_err(), "half of four are the phone's");
    assert!(cloud.tls_client(&tablet).await.is_ok(), "another one has its own");
    cloud.stop().await;
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_an_expired_one_is_refused() {
    let pki = Pki::new();
    let cloud = Cloud::start(pki.settings()).await;
    let now = std::time::SystemTime::now();
    let expired = IssueOptions {
        valid_from: now - Duration::from_hours(2),
        valid_until: now - Duration::from_hours(1),
        ..IssueOptions::new(Usage::Client, 1)
    };
    let expired = pki::issue(pki.folder.path(), "late", &expired).unwrap();
    let valid = pki.issue("phone", Usage::Client);
    // The configurations are made here: the edge's own would not load an expired certificate.
    let bare = pki.trusting().with_no_client_auth();
    let error = cloud.connect(bare).await.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
    let error = cloud.connect(pki.showing(&expired)).await.unwrap_err();
    assert!(error.contains("CertificateExpired"), "{error}");
    assert!(cloud.connect(pki.showing(&valid)).await.is_ok(), "the same way, with a valid one");
    cloud.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_is_said_before_anything_is_served() {
    let pki = Pki::new();
    std::fs::remove_file(pki.folder.path().join("cloud.key")).unwrap();
    let cloud = Cloud::load(pki.settings(), || unreachable!("nothing is loaded")).await;
    let error = cloud.served.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cloud.key"), "{error}");
    let small = CloudSettings { kv_bytes_max: 1000, ..settings() };
    let loaded = || {
        Ok(relay_model::LoadedModel {
            model: Box::new(relay_model::scripted::ScriptedModel::new(257, 8192, |_| 1)),
            tokenizer: std::sync::Arc::new(relay_model::scripted::byte_tokenizer(&[])),
            chat_template: None,
            identity: relay_model::ModelIdentity { name: "m".to_owned(), hash: [0; 8] },
        })
    };
    let error = Cloud::load(small, loaded).await.served.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Settings(_)), "{error}");
    assert!(error.to_string().contains("`kv_bytes_max`"), "{error}");
}
