//! Promise 5 as an operator sees it: what is bounded, and by how much, is scraped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use relay::call::CallRequest;
use relay_cloud::CloudSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Cloud, PATIENCE, settings};

/// Every limit with a bound of the same name, and the setting it comes from, if it is one's own.
const LIMITS: [(&str, &str, u64); 20] = [
    ("sessions", "sessions_max", 1024),
    ("kv_bytes", "kv_bytes_max", 2 << 30),
    ("running_calls", "calls_max", 1),
    ("queued_calls", "queue_calls_max", 64),
    ("connections", "connections_max", 1024),
    ("handshakes", "handshakes_max", 64),
    ("connection_streams", "connection_streams_max", 64),
    ("step_tokens", "step_tokens_max", 512),
    ("context_tokens", "context_tokens_max", 4096),
    ("call_tokens", "call_tokens_max", 64),
    ("draft_tokens", "draft_tokens_max", 64),
    ("budget_ms", "budget_ms_max", 120_000),
    ("delta_tokens", "", 4096),
    ("message_bytes", "", 5 * (4096 + 64) + 65_536),
    ("commands", "", 1024),
    ("tenant_running_calls", "", 1),
    ("tenant_calls", "", 65),
    ("tenant_sessions", "", 1024),
    ("tenant_kv_bytes", "", 2 << 30),
    ("tenant_connections", "", 1024),
];

async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The values of one family of gauges, by bound.
fn gauges(text: &str, family: &str) -> BTreeMap<String, u64> {
    let start = format!("relay_cloud_{family}{{bound=\"");
    let lines = text.lines().filter_map(|line| line.strip_prefix(&start));
    let values = lines.filter_map(|line| line.split_once("\"} "));
    values.map(|(bound, value)| (bound.to_owned(), value.parse().unwrap())).collect()
}

/// Scrapes until every bound but handshakes, of which there are none without TLS, is in use.
async fn scrape_in_use(address: SocketAddr) -> String {
    loop {
        let text = scrape(address).await;
        let used = gauges(&text, "used");
        if used.iter().all(|(bound, used)| *used > 0 || bound == "handshakes") {
            return text;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn promise_5_bounded_every_limit_has_a_metric() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probes = free.local_addr().unwrap();
    drop(free);
    let settings = CloudSettings { calls_max: 1, probes_listen: Some(probes), ..settings() };
    let (cloud, gate) = Cloud::gated(settings).await;
    let mut client = cloud.client().await;
    let first = CallRequest { draft: vec![1], ..client.request(1, 1, &[5, 6], 8) };
    let runs = client.open(first).await.unwrap();
    let waits = client.open(client.request(2, 1, &[5], 8)).await.unwrap();
    gate.pass(2);
    let in_use = tokio::time::timeout(PATIENCE, scrape_in_use(probes)).await;
    let Ok(text) = in_use else { panic!("not all in use:\n{}", scrape(probes).await) };
    let limits = LIMITS.iter().map(|(bound, _, limit)| ((*bound).to_owned(), *limit));
    let limits: BTreeMap<String, u64> = limits.collect();
    assert_eq!(gauges(&text, "limit"), limits);
    let used = gauges(&text, "used");
    assert_eq!(used.keys().collect::<Vec<_>>(), limits.keys().collect::<Vec<_>>());
    assert!(used.iter().all(|(bound, used)| used <= &limits[bound]), "{used:?}");
    assert_eq!((used["message_bytes"] > 60, used["delta_tokens"]), (true, 2));
    drop((runs, waits, gate));
    cloud.stop().await;
}

#[test]
fn every_setting_that_is_a_limit_is_in_the_list() {
    let settings = CloudSettings { context_tokens_max: Some(1), ..CloudSettings::default() };
    let table = toml::Table::try_from(settings).unwrap();
    let settings: BTreeSet<&str> =
        table.keys().map(String::as_str).filter(|key| key.ends_with("_max")).collect();
    let listed = LIMITS.iter().map(|(_, setting, _)| *setting).filter(|key| !key.is_empty());
    assert_eq!(listed.collect::<BTreeSet<&str>>(), settings);
}
