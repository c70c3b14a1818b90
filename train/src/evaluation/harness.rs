//! Answers every problem under every policy and keeps what is judged. A run that was killed goes on
//! with what is missing, since each answer depends on nothing but its own problem.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use relay::ids::ModelId;
use relay_model::{
    ChatTemplate, EmbeddedFolder, LoadOptions, LoadedModel, ModelIdentity, ModelSource, Tokenizer,
    load,
};
use serde::{Deserialize, Serialize};

use super::contender::{Contender, Matching, random_probability};
use super::figures::figures;
use super::finished::{Finished, FinishedFile};
use super::item::{Item, Items, SetName};
use crate::problem::Level;
use crate::prompt::prompt_ids;
use crate::rollout::{Answer, Ask, Rollout, RolloutSettings};

mod limits {
    /// Halvings of the range of thresholds.
    pub(super) const CALIBRATION_STEPS: u32 = 9;
    /// Nats above which no threshold is looked for.
    pub(super) const ENTROPY_NATS_MAX: f32 = 8.0;
}

/// What is evaluated: written into the run's folder, and compared before a run goes on there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Name and hash of the small model.
    pub slm: String,
    /// Those of the small model before training, where there is one.
    pub base: Option<String>,
    /// Those of the large model.
    pub llm: String,
    /// The set, where problems are not the small world's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<SetName>,
    /// The small world's levels.
    pub levels: Vec<Level>,
    /// Problems in all.
    pub problems: usize,
    /// Their seed.
    pub seed: u64,
    /// Policies by name.
    pub policies: Vec<String>,
    /// Tokens a call of the untrained policies asks for; 0 is relay's own mean.
    pub call_tokens: u32,
    /// Most tokens of an answer.
    pub max_tokens: u32,
}

/// The models of an evaluation.
#[derive(Debug)]
pub struct Models {
    /// Small and large model.
    pair: Rollout,
    /// The small model before training, alone.
    base: Option<Rollout>,
    template: Option<ChatTemplate>,
    tokenizer: Arc<Tokenizer>,
    /// The large model's name on the wire.
    llm: ModelId,
}

/// Loads a model as the programs do: tags in prompts are plain text.
/// Where a path is expected, `embedded` is this model of the tiny pair. It computes on all physical
/// cores unless `threads` are given.
pub fn load_model(
    path: &Path,
    embedded: &'static EmbeddedFolder,
    threads: Option<usize>,
) -> anyhow::Result<LoadedModel> {
    let plain_texts = relay::command::TAGS.map(str::to_owned).to_vec();
    let options = LoadOptions { plain_texts, threads, ..LoadOptions::default() };
    let source = ModelSource::named(path, embedded);
    load(source, &options).with_context(|| format!("{} cannot be loaded", path.display()))
}

/// A model's name and hash.
pub fn model_name(identity: &ModelIdentity) -> String {
    let hash = u64::from_be_bytes(identity.hash);
    format!("{} {hash:016x}", identity.name)
}

impl Models {
    /// Puts loaded models together.
    ///
    /// # Errors
    /// If their vocabularies differ.
    pub fn new(
        slm: LoadedModel,
        llm: LoadedModel,
        base: Option<LoadedModel>,
    ) -> anyhow::Result<Self> {
        let template = slm.chat_template.clone();
        let base = base.map(|base| Rollout::new(base, None)).transpose()?;
        let name = ModelId::new(llm.identity.name.clone(), llm.identity.hash);
        let tokenizer = Arc::clone(&slm.tokenizer);
        Ok(Self { pair: Rollout::new(slm, Some(llm))?, base, template, tokenizer, llm: name })
    }
}

/// An evaluation under way.
#[derive(Debug)]
pub struct Harness {
    run: Run,
    models: Models,
    base_settings: RolloutSettings,
    finished: FinishedFile,
    matching_path: PathBuf,
    items: Items,
    asks: Vec<Ask>,
}

impl Harness {
    /// Opens the run's folder, a new one or one to go on in.
    ///
    /// # Errors
    /// If the folder holds another run, or cannot be used.
    pub fn open(
        run: Run,
        items: Items,
        models: Models,
        rows_max: usize,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        claim_folder(&run, folder)?;
        let finished = FinishedFile::open(&folder.join("finished.jsonl"))?;
        let mut base_settings = RolloutSettings { rows_max, ..RolloutSettings::default() };
        base_settings.budget.response_tokens_max = run.max_tokens;
        base_settings.budget.cloud_tokens_max = run.max_tokens;
        let asks = models.asks(&items.judged)?;
        let matching_path = folder.join("matching.json");
        Ok(Self { run, models, base_settings, finished, matching_path, items, asks })
    }

    /// Answers and judges what is missing.
    ///
    /// # Errors
    /// If a model fails or a judged answer cannot be written; what was written stays.
    pub fn complete(&mut self, contenders: &[Contender]) -> anyhow::Result<()> {
        let has_call_tokens = self.run.call_tokens > 0;
        let (matched, plain): (Vec<Contender>, Vec<Contender>) =
            contenders.iter().partition(|contender| contender.follows_relay(has_call_tokens));
        for contender in plain {
            self.complete_one(contender, None, self.default_matching())?;
        }
        if matched.is_empty() {
            return Ok(());
        }
        // What the others are matched to.
        self.complete_one(Contender::Relay, None, self.default_matching())?;
        let matchings = self.matchings(matched.contains(&Contender::EntropyMatched))?;
        for contender in matched {
            for Matched { level, matching } in &matchings {
                self.complete_one(contender, *level, *matching)?;
            }
        }
        Ok(())
    }

    /// What is judged so far.
    pub fn rows(&self) -> &[Finished] {
        self.finished.rows()
    }

    fn default_matching(&self) -> Matching {
        Matching { call_tokens: self.run.call_tokens.max(1), ..Matching::default() }
    }

    /// Of one level, or of all.
    fn complete_one(
        &mut self,
        contender: Contender,
        level: Option<Level>,
        matching: Matching,
    ) -> anyhow::Result<()> {
        let name = contender.to_string();
        let Self { finished, items: Items { judged, .. }, models, .. } = self;
        let Models { pair, base, tokenizer, llm, .. } = models;
        let of_level: Vec<usize> =
            (0..judged.len()).filter(|&at| is_within(level, judged[at].level())).collect();
        let is_missing = |at: &usize| !finished.has(&name, &judged[*at].id);
        let missing: Vec<usize> = of_level.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let asks: Vec<Ask> = missing.iter().map(|&at| self.asks[at].clone()).collect();
        let settings = contender.settings(&self.base_settings, matching);
        let bar = progress_bar(&name, of_level.len(), of_level.len() - missing.len());
        let mut failed = None;
        let keep = |index: usize, answer: Answer| {
            let item = &judged[missing[index]];
            let row = Finished::judge(&name, item, &answer, (tokenizer, llm));
            bar.inc(1);
            if failed.is_none() {
                failed = finished.push(row).err();
            }
        };
        let rollout = match base {
            Some(base) if contender.is_of_base() => base,
            _ => pair,
        };
        let answered = rollout.run(&asks, &settings, keep);
        bar.finish();
        answered.with_context(|| format!("policy {name}"))?;
        failed.map_or(Ok(()), Err)
    }

    /// The settings that bring relay's call ratio on each level; kept, so that a run that goes on
    /// has the same.
    fn matchings(&mut self, with_entropy: bool) -> anyhow::Result<Vec<Matched>> {
        let shown = self.matching_path.display().to_string();
        if let Ok(bytes) = std::fs::read(&self.matching_path) {
            return serde_json::from_slice(&bytes).with_context(|| format!("{shown}: remove it"));
        }
        let levels: Vec<Option<Level>> = match self.run.levels.as_slice() {
            [] => vec![None],
            levels => levels.iter().copied().map(Some).collect(),
        };
        let matched = |level| {
            let matching = self.matching(level, with_entropy)?;
            Ok(Matched { level, matching })
        };
        let matchings = levels.into_iter().map(matched).collect::<anyhow::Result<Vec<_>>>()?;
        let text = serde_json::to_string(&matchings).context("the matching is no JSON")?;
        std::fs::write(&self.matching_path, text + "\n")
            .with_context(|| format!("{shown}: cannot be written"))?;
        Ok(matchings)
    }

    fn matching(&mut self, level: Option<Level>, with_entropy: bool) -> anyhow::Result<Matching> {
        let rows = self.finished.rows().iter().filter(|row| is_within(level, row.level));
        let found = figures(rows.filter(|row| row.policy == "relay"), self.run.seed);
        let relay = found.policies.get("relay").context("relay was not evaluated")?;
        let call_tokens = match self.run.call_tokens {
            0 => relay.tokens_per_call(),
            given => given,
        };
        let call_ratio = relay.call_ratio;
        let mut matching = Matching {
            call_tokens,
            entropy_threshold: limits::ENTROPY_NATS_MAX,
            random_probability: random_probability(call_ratio, call_tokens),
        };
        if with_entropy {
            matching.entropy_threshold = self.calibrate(level, call_ratio, matching)?;
        }
        Ok(matching)
    }

    /// The threshold whose call ratio on validation problems is nearest from above the wanted one:
    /// the rival gets no fewer tokens.
    fn calibrate(
        &mut self,
        level: Option<Level>,
        call_ratio: f64,
        matching: Matching,
    ) -> anyhow::Result<f32> {
        let of_level = |item: &&Item| is_within(level, item.level());
        let items: Vec<Item> = self.items.calibration.iter().filter(of_level).cloned().collect();
        let asks = self.models.asks(&items)?;
        let (mut low, mut high) = (0.0, limits::ENTROPY_NATS_MAX);
        for _ in 0..limits::CALIBRATION_STEPS {
            let threshold_nats = f32::midpoint(low, high);
            let tried = Matching { entropy_threshold: threshold_nats, ..matching };
            let settings = Contender::EntropyMatched.settings(&self.base_settings, tried);
            let (mut llm_tokens, mut response_tokens) = (0.0, 0.0);
            self.models.pair.run(&asks, &settings, |_, answer| {
                llm_tokens += f64::from(answer.account.llm_tokens);
                response_tokens += f64::from(answer.account.total_tokens);
            })?;
            if llm_tokens >= call_ratio * response_tokens {
                low = threshold_nats;
            } else {
                high = threshold_nats;
            }
        }
        Ok(low)
    }
}

/// Whether what is of level `found` is meant by `wanted`: by none, everything is.
fn is_within(wanted: Option<Level>, found: Option<Level>) -> bool {
    wanted.is_none() || found == wanted
}

/// What the policies without training are set to on a level.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Matched {
    /// Of a set there are no levels.
    level: Option<Level>,
    #[serde(flatten)]
    matching: Matching,
}

impl Models {
    fn asks(&self, items: &[Item]) -> anyhow::Result<Vec<Ask>> {
        let ask = |(item, seed): (&Item, u64)| {
            let prompt = prompt_ids(&self.tokenizer, self.template.as_ref(), &item.question)?;
            Ok(Ask { prompt, seed })
        };
        items.iter().zip(0..).map(ask).collect()
    }
}

/// Writes what is evaluated into the folder, or sees that it is the same that is there.
fn claim_folder(run: &Run, folder: &Path) -> anyhow::Result<()> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot be made"))?;
    let path = folder.join("run.json");
    if path.exists() {
        if read_run(folder)? != *run {
            bail!("{shown} holds another evaluation: choose another --out, or empty it");
        }
        return Ok(());
    }
    let text = serde_json::to_string_pretty(run).context("the run is no JSON")?;
    std::fs::write(&path, text + "\n").with_context(|| format!("{shown}: cannot be written"))
}

/// What a folder's evaluation is of.
///
/// # Errors
/// If there is none.
pub fn read_run(folder: &Path) -> anyhow::Result<Run> {
    let path = folder.join("run.json");
    let shown = path.display();
    let bytes =
        std::fs::read(&path).with_context(|| format!("{shown}: is this an eval folder?"))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{shown}: is not what eval writes"))
}

/// A bar that says how long it will take still.
pub fn progress_bar(name: &str, count: usize, done: usize) -> ProgressBar {
    const TEMPLATE: &str = "{msg:14} {bar:30} {human_pos}/{human_len} {per_sec} {eta}";
    let style = ProgressStyle::with_template(TEMPLATE);
    let bar = ProgressBar::new(count as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(name.to_owned())
        .with_position(done as u64);
    bar.reset_eta();
    bar
}
