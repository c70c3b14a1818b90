//! What a client meets: Describe, Call, Forget, health, and clear errors.

use relay::call::FinishReason;
use relay::ids::SessionId;
use relay::refusal::Refusal;
use relay_chassis::health::HealthState;
use relay_cloud::error::CallError;
use relay_cloud::{CloudSettings, ServeError};
use relay_model::ModelError;
use relay_proto::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Cloud, Told, settings};

#[tokio::test]
async fn a_call_is_served_and_a_repeated_one_says_the_same() {
    let cloud = Cloud::start(settings()).await;
    let mut client = cloud.client().await;
    assert_eq!(client.described.limits.message_bytes_max, 5 * (4096 + 64) + 65_536);
    let text = [5, 6, 7];
    let first = client.run(client.request(1, 1, &text, 8)).await.unwrap();
    assert_eq!((first.ids.len(), first.finished), (8, Some(FinishReason::Length)));
    let again = client.run(client.request(1, 2, &text, 8)).await.unwrap();
    assert_eq!((again.cached_tokens, &again.ids), (Some(3), &first.ids));
    let stale = client.run(client.request(1, 2, &text, 8)).await.unwrap();
    assert_eq!(stale.refused, Some(Refusal::StaleAttempt { highest: 2 }));
    let forget = v1::ForgetRequest::from(SessionId::new([1; 16]));
    client.relay.forget(forget.clone()).await.unwrap();
    client.relay.forget(forget).await.unwrap();
    let anew = client.run(client.request(1, 1, &text, 8)).await.unwrap();
    assert_eq!((anew.cached_tokens, anew.ids), (Some(0), first.ids));
    cloud.stop().await;
}

#[tokio::test]
async fn what_is_malformed_is_named() {
    type Change = fn(&mut v1::CallRequest);
    let cloud = Cloud::start(settings()).await;
    let mut client = cloud.client().await;
    let good = v1::CallRequest::from(client.request(1, 1, &[5], 8));
    let cases: [(Change, &str); 5] = [
        (|request| request.session_id = vec![1; 15], "session_id"),
        (|request| request.max_tokens = None, "max_tokens"),
        (|request| request.attempt = Some(0), "attempt"),
        (|request| request.draft_ids = vec![257], "token id 257"),
        (|request| request.sampling.as_mut().unwrap().top_p = Some(f32::NAN), "top_p"),
    ];
    for (change, part) in cases {
        let mut request = good.clone();
        change(&mut request);
        let status = client.relay.call(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{}", status.message());
    }
    cloud.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_with_the_limits_name() {
    let cloud = Cloud::start(settings()).await;
    let mut client = cloud.client().await;
    let status = client.run(client.request(1, 1, &vec![200; 60_000], 8)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("message_bytes_max"), "{}", status.message());
    let longest = client.run(client.request(1, 1, &vec![200; 4095], 1)).await.unwrap();
    assert_eq!(longest.finished, Some(FinishReason::Length), "a prefix always fits one attempt");
    cloud.stop().await;
}

#[tokio::test]
async fn a_dropped_stream_cancels_its_call() {
    let (cloud, gate) = Cloud::gated(CloudSettings { calls_max: 1, ..settings() }).await;
    let mut client = cloud.client().await;
    let mut stream = client.open(client.request(1, 1, &[5], 64)).await.unwrap();
    gate.pass(1);
    stream.message().await.unwrap().expect("accepted");
    stream.message().await.unwrap().expect("a token");
    drop(stream);
    // A connection's frames are read in order: when this is answered, the reset was read.
    client.relay.describe(v1::DescribeRequest {}).await.unwrap();
    // There is one place: the other call has it only when this one is gone.
    let mut other = client.open(client.request(2, 1, &[6], 1)).await.unwrap();
    let mut told = Told::default();
    let before = gate.steps();
    while told.finished.is_none() {
        let next = gate.steps() + 1;
        gate.pass(1);
        while told.finished.is_none() && gate.steps() < next {
            tokio::select! {
                event = other.message() => told.hear(event.unwrap().expect("not over yet")),
                () = gate.until(next) => {}
            }
        }
    }
    assert_eq!(told.finished, Some(FinishReason::Length));
    let steps = gate.steps() - before;
    assert!(steps <= 4, "the dropped call of 64 tokens went on for {steps} steps");
    drop(gate);
    cloud.stop().await;
}

#[tokio::test]
async fn health_says_when_it_is_ready_and_calls_before_that_are_told_to_come_back() {
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let cloud = Cloud::load(settings(), move || {
        let _ = wait.recv();
        Err(ModelError::Fault { what: "the test has no model".to_owned() })
    })
    .await;
    let channel = cloud.channel().await;
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "relay.v1.Relay"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status;
        assert_eq!(status, 2, "not serving");
    }
    let mut relay = v1::relay_client::RelayClient::new(channel);
    let status = relay.describe(v1::DescribeRequest {}).await.unwrap_err();
    let loading = tonic::Status::from(CallError::Loading);
    assert_eq!((status.code(), status.message()), (Code::Unavailable, loading.message()));
    go.send(()).unwrap();
    let error = cloud.served.await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Model(_)), "{error}");
}

#[tokio::test]
async fn health_is_serving_while_ready() {
    let cloud = Cloud::start(settings()).await;
    let mut health = HealthClient::new(cloud.channel().await);
    let request = || HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(request()).await.unwrap().into_inner();
    let mut status = 0;
    while status != 1 {
        status = watch.message().await.unwrap().unwrap().status;
    }
    cloud.trigger.begin();
    cloud.until(HealthState::Draining).await;
    while status == 1 {
        status = watch.message().await.unwrap().unwrap().status;
    }
    assert_eq!(status, 2, "not serving any more");
    // The watch is still open: the service ends all the same.
    cloud.ended().await;
}
