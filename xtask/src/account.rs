//! The table of one answer, made from the report that `relay-edge ask --report` writes.

use anyhow::Context;
use serde::Deserialize;

/// What the table needs of the report.
#[derive(Deserialize)]
pub(crate) struct Account {
    pub(crate) answer: String,
    calls: u64,
    requested_tokens: u64,
    pub(crate) llm_tokens: u64,
    total_tokens: u64,
    call_ratio: f64,
    bytes_up: u64,
    bytes_down: u64,
    round_trips: u64,
    resyncs: u64,
    wall_ms: f64,
    cloud_ms: f64,
    refusals: serde_json::Value,
    degraded: serde_json::Value,
    seed: serde_json::Value,
}

pub(crate) fn read(report: &str) -> anyhow::Result<Account> {
    serde_json::from_str(report).context("the edge's report has another shape than expected")
}

impl Account {
    /// One row a figure.
    pub(crate) fn table(&self) -> String {
        let rows = [
            ("call ratio", format!("{:.1} %", self.call_ratio * 100.0)),
            ("tokens", format!("{} of {} by the cloud", self.llm_tokens, self.total_tokens)),
            ("calls", format!("{} for {} tokens", self.calls, self.requested_tokens)),
            ("bytes", format!("{} up, {} down", self.bytes_up, self.bytes_down)),
            ("round trips", format!("{} ({} resyncs)", self.round_trips, self.resyncs)),
            ("time", format!("{:.0} ms, {:.0} ms of it in the cloud", self.wall_ms, self.cloud_ms)),
            ("refusals", plain(&self.refusals)),
            ("degraded", plain(&self.degraded)),
            ("seed", plain(&self.seed)),
        ];
        let rows = rows.map(|(name, value)| format!("  {name:<12} {value}"));
        rows.join(
            "
",
        )
    }
}

/// A value as a person would write it.
fn plain(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(false) => "no".into(),
        Value::Bool(true) => "yes".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.is_empty() => "none".into(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| format!("{name} {}", plain(value)));
            fields.collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn the_table_always_names_the_call_ratio() {
        let report = r#"{"answer": "a", "legs": [], "calls": 2, "requested_tokens": 24,
            "llm_tokens": 20, "total_tokens": 80, "call_ratio": 0.25, "bytes_up": 900,
            "bytes_down": 1100, "round_trips": 3, "resyncs": 0, "wall_ms": 1234, "cloud_ms": 56.7,
            "refusals": {"overloaded": 1}, "degraded": false, "seed": 7}"#;
        let table = read(report).unwrap().table();
        for row in ["call ratio   25.0 %", "20 of 80", "overloaded 1", "degraded     no"] {
            assert!(table.contains(row), "{row} is missing:\n{table}");
        }
        assert!(read("{}").is_err());
    }
}
