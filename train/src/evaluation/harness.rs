//! Answers every problem under every policy and keeps what is judged. A run that was killed goes on
//! with what is missing, since each answer depends on nothing but its own problem.

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use relay::command::TAGS;
use relay::ids::ModelId;
use relay::policy::Policy;
use relay_model::{
    ChatTemplate, EmbeddedFolder, LanguageModel, LoadOptions, LoadedModel, ModelIdentity,
    ModelSource, Tokenizer, load,
};
use serde::{Deserialize, Serialize};

use super::calibration::calibrate;
use super::contender::{Contender, Matching, random_probability};
use super::figures::policy_figures;
use super::finished::{Finished, FinishedFile};
use super::item::{Item, Items, SetName};
use crate::checkpoint::write_aside;
use crate::problem::Level;
use crate::prompt::prompt_ids;
use crate::rollout::{Answer, Ask, Rollout, RolloutSettings};
use crate::run_folder::hold;

/// What the matched policies are set to, in the run's folder.
const MATCHING: &str = "matching.json";

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
    /// The small model of each: the one before training wherever a user without a learned policy
    /// could do the same.
    #[serde(default)]
    pub students: BTreeMap<String, String>,
    /// What relay's commands ask for, whatever they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed: Option<NonZeroU32>,
    /// Tokens a call of the untrained policies asks for; 0 is relay's own mean.
    pub call_tokens: u32,
    /// Most tokens of an answer.
    pub max_tokens: u32,
}

impl Run {
    /// Everything that is answered: the policies, and relay where others are matched to it.
    ///
    /// # Errors
    /// If there is no policy of a name.
    pub fn contenders(&self) -> anyhow::Result<Vec<Contender>> {
        let parsed = self.policies.iter().map(|name| name.parse());
        let mut all = Vec::new();
        for contender in parsed.collect::<anyhow::Result<Vec<Contender>>>()? {
            if !all.contains(&contender) {
                all.push(contender);
            }
        }
        let follows = all.iter().any(|contender| contender.follows_relay(self.call_tokens > 0));
        if follows && !all.contains(&Contender::Relay) {
            all.push(Contender::Relay);
        }
        Ok(all)
    }

    /// This run, with the small model of each policy.
    ///
    /// # Errors
    /// As [`Run::contenders`].
    pub fn with_students(mut self) -> anyhow::Result<Self> {
        for contender in self.contenders()? {
            let base = self.base.as_ref().filter(|_| contender.is_of_base());
            let student = base.unwrap_or(&self.slm).clone();
            if contender != Contender::LlmAlone {
                self.students.insert(contender.to_string(), student);
            }
        }
        Ok(self)
    }
}

/// The models of an evaluation.
#[derive(Debug)]
pub struct Models {
    students: Students,
    template: Option<ChatTemplate>,
    tokenizer: Arc<Tokenizer>,
    /// The large model's name on the wire.
    llm: ModelId,
}

/// The large model, and two small ones that take turns at its side: it is loaded once.
struct Students {
    pair: Rollout,
    /// The small model that is not in the pair.
    other: Option<Box<dyn LanguageModel>>,
    /// Whether the one before training is.
    is_of_base: bool,
}

impl std::fmt::Debug for Students {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Students");
        debug
            .field("pair", &self.pair)
            .field("is_of_base", &self.is_of_base)
            .finish_non_exhaustive()
    }
}

impl Students {
    /// The large model with the small one before training, or after it.
    fn pair(&mut self, is_of_base: bool) -> &mut Rollout {
        if self.is_of_base != is_of_base
            && let Some(other) = self.other.take()
        {
            self.other = Some(self.pair.replace_student(other));
            self.is_of_base = is_of_base;
        }
        &mut self.pair
    }
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
        let tokenizer = Arc::clone(&slm.tokenizer);
        if let Some(base) = &base {
            ensure!(
                base.tokenizer.fingerprint(&TAGS) == tokenizer.fingerprint(&TAGS),
                "--base {} has another vocabulary than --slm {}: give the checkpoint that --slm \
                 was trained from",
                base.identity.name,
                slm.identity.name
            );
        }
        let name = ModelId::new(llm.identity.name.clone(), llm.identity.hash);
        let students = Students {
            pair: Rollout::new(slm, Some(llm))?,
            other: base.map(|base| base.model),
            is_of_base: false,
        };
        Ok(Self { students, template, tokenizer, llm: name })
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
    /// Keeps others from the folder.
    _held: File,
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
        let held = claim_folder(&run, folder)?;
        let finished = FinishedFile::open(&folder.join("finished.jsonl"))?;
        let mut base_settings = RolloutSettings { rows_max, ..RolloutSettings::default() };
        base_settings.budget.response_tokens_max = run.max_tokens;
        base_settings.budget.cloud_tokens_max = run.max_tokens;
        if let Some(fixed) = run.fixed {
            base_settings.policy = Policy::Fixed { call_tokens: fixed.get() };
        }
        let asks = models.asks(&items.judged)?;
        let matching_path = folder.join(MATCHING);
        Ok(Self { run, models, base_settings, finished, matching_path, items, asks, _held: held })
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
        let Models { students, tokenizer, llm, .. } = models;
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
        let keep = |index: usize, answer: Answer| {
            let item = &judged[missing[index]];
            let row = Finished::judge(&name, item, &answer, (tokenizer, llm));
            bar.inc(1);
            finished.push(row)
        };
        let answered = students.pair(contender.is_of_base()).run(&asks, &settings, keep);
        bar.finish();
        answered.with_context(|| format!("policy {name}"))
    }

    /// The settings that bring relay's call ratio on each level; kept, so that a run that goes on
    /// has the same.
    fn matchings(&mut self, with_entropy: bool) -> anyhow::Result<Vec<Matched>> {
        if self.matching_path.exists() {
            return read_matchings(&self.matching_path);
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
        write_aside(&self.matching_path, (text + "\n").as_bytes())?;
        Ok(matchings)
    }

    fn matching(&mut self, level: Option<Level>, with_entropy: bool) -> anyhow::Result<Matching> {
        let is_relay = |row: &&Finished| row.policy == "relay" && is_within(level, row.level);
        let relay: Vec<&Finished> = self.finished.rows().iter().filter(is_relay).collect();
        let relay = policy_figures(&relay);
        let call_tokens = match self.run.call_tokens {
            0 => relay.tokens_per_call(),
            given => given,
        };
        let call_ratio = relay.call_ratio;
        let random_probability = random_probability(call_ratio, call_tokens);
        let mut matching =
            Matching { call_tokens, call_ratio, random_probability, ..Matching::default() };
        if with_entropy {
            let asks = self.calibration_asks(level)?;
            let found = calibrate(call_ratio, |threshold, probability| {
                matching.entropy_threshold = threshold;
                matching.entropy_probability = probability;
                self.entropy_call_ratio(&asks, matching)
            })?;
            matching.entropy_threshold = found.threshold_nats;
            matching.entropy_probability = found.probability;
            matching.entropy_call_ratio = Some(found.call_ratio);
        }
        Ok(matching)
    }

    fn calibration_asks(&self, level: Option<Level>) -> anyhow::Result<Vec<Ask>> {
        let of_level = |item: &&Item| is_within(level, item.level());
        let items: Vec<Item> = self.items.calibration.iter().filter(of_level).cloned().collect();
        self.models.asks(&items)
    }

    /// What calling by entropy brings with these settings.
    fn entropy_call_ratio(&mut self, asks: &[Ask], matching: Matching) -> anyhow::Result<f64> {
        let rival = Contender::EntropyMatched;
        let settings = rival.settings(&self.base_settings, matching);
        let (mut llm_tokens, mut response_tokens) = (0.0, 0.0);
        let pair = self.models.students.pair(rival.is_of_base());
        pair.run(asks, &settings, |_, answer| -> anyhow::Result<()> {
            llm_tokens += f64::from(answer.account.llm_tokens);
            response_tokens += f64::from(answer.account.total_tokens);
            Ok(())
        })?;
        Ok(if response_tokens > 0.0 { llm_tokens / response_tokens } else { 0.0 })
    }
}

/// Whether what is of level `found` is meant by `wanted`: by none, everything is.
fn is_within(wanted: Option<Level>, found: Option<Level>) -> bool {
    wanted.is_none() || found == wanted
}

/// What the policies without training are set to on a level.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The level; of a set there are none.
    pub level: Option<Level>,
    /// The settings.
    #[serde(flatten)]
    pub matching: Matching,
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
fn claim_folder(run: &Run, folder: &Path) -> anyhow::Result<File> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("{shown}: cannot be made"))?;
    let held = hold(folder)?;
    let path = folder.join("run.json");
    if path.exists() {
        if read_run(folder)? != *run {
            bail!("{shown} holds another evaluation: choose another --out, or empty it");
        }
        return Ok(held);
    }
    let text = serde_json::to_string_pretty(run).context("the run is no JSON")?;
    write_aside(&path, (text + "\n").as_bytes())?;
    Ok(held)
}

/// What the matched policies of a folder's evaluation are set to; nothing where none is.
///
/// # Errors
/// If that cannot be read.
pub fn matchings_of(folder: &Path) -> anyhow::Result<Vec<Matched>> {
    let path = folder.join(MATCHING);
    if path.exists() { read_matchings(&path) } else { Ok(Vec::new()) }
}

fn read_matchings(path: &Path) -> anyhow::Result<Vec<Matched>> {
    let shown = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("{shown}: cannot be read"))?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{shown}: is of an older program, or damaged: remove it"))
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
