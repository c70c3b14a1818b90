//! Training and evaluation. Nearly empty: the data, warm-up, GRPO and evaluation stages are not written yet.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("relay-train has no stages yet: training is not part of this version")
}
