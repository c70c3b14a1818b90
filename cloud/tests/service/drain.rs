//! Going away: running calls end, and nothing can keep the service from ending.

use relay::call::FinishReason;
use relay_chassis::health::HealthState;
use relay_cloud::CloudSettings;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::harness::{Cloud, Told, settings};

#[tokio::test]
async fn promise_6_a_running_call_ends_before_the_service_does() {
    let (cloud, gate) = Cloud::gated(settings()).await;
    let mut client = cloud.client().await;
    let mut stream = client.open(client.request(1, 1, &[5], 4)).await.unwrap();
    stream.message().await.unwrap().expect("accepted");
    cloud.trigger.begin();
    cloud.until(HealthState::Draining).await;
    gate.pass(4);
    let mut told = Told::default();
    while let Some(event) = stream.message().await.unwrap() {
        told.hear(event);
    }
    assert_eq!((told.ids.len(), told.finished), (4, Some(FinishReason::Length)));
    let address = cloud.address;
    cloud.ended().await;
    assert!(TcpStream::connect(address).await.is_err(), "the socket is closed");
}

#[tokio::test]
async fn a_call_still_running_at_the_limit_ends_with_draining() {
    let (cloud, gate) = Cloud::gated(CloudSettings { drain_timeout_s: 1, ..settings() }).await;
    let mut client = cloud.client().await;
    let mut stream = client.open(client.request(1, 1, &[5], 64)).await.unwrap();
    stream.message().await.unwrap().expect("accepted");
    cloud.trigger.begin();
    // One step a while, as a slow model would: never 64 of them within the second.
    let steps = tokio::spawn(async move {
        let mut period = tokio::time::interval(std::time::Duration::from_millis(100));
        for _ in 0..30 {
            period.tick().await;
            gate.pass(1);
        }
    });
    let mut told = Told::default();
    while let Some(event) = stream.message().await.unwrap() {
        told.hear(event);
    }
    assert_eq!(told.finished, Some(FinishReason::Draining));
    assert!(told.ids.len() < 64);
    cloud.ended().await;
    steps.abort();
}

#[tokio::test]
async fn a_peer_that_says_nothing_and_one_that_never_reads_do_not_keep_the_service() {
    let cloud = Cloud::start(CloudSettings { drain_timeout_s: 1, ..settings() }).await;
    let silent = TcpStream::connect(cloud.address).await.unwrap();
    let mut client = cloud.client().await;
    let stream = client.open(client.request(1, 1, &[5], 64)).await.unwrap();
    cloud.stop().await;
    drop((silent, stream));
}

#[tokio::test]
async fn a_hung_step_does_not_keep_the_service() {
    let (cloud, gate) = Cloud::gated(CloudSettings { drain_timeout_s: 1, ..settings() }).await;
    let mut client = cloud.client().await;
    let mut stream = client.open(client.request(1, 1, &[5], 64)).await.unwrap();
    stream.message().await.unwrap().expect("accepted");
    cloud.stop().await;
    drop(gate);
}

#[tokio::test]
async fn a_peer_that_stays_silent_is_cut() {
    let cloud = Cloud::start(CloudSettings { handshake_timeout_ms: 50, ..settings() }).await;
    let mut silent = TcpStream::connect(cloud.address).await.unwrap();
    let mut rest = Vec::new();
    // Our settings frame may come first; then the connection ends.
    let ended = tokio::time::timeout(crate::harness::PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "still open");
    cloud.stop().await;
}
