//! System measurements. Nearly empty: the engine and load benchmarks are not written yet.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("relay-bench has no measurements yet: they are not part of this version")
}
