//! What samples of the warmed-up model look like: how many commands they hold, and how many of all
//! tries are well-formed.

use std::io::Write;

use relay_model::{LoadOptions, LoadedModel, Sampling, load};
use serde_json::{Map, Value, json};

use super::WarmupSettings;
use super::commands::count_commands;
use super::source::Source;
use crate::answers::{answer, score, text};
use crate::checkpoint::write_aside;
use crate::training_run::TrainingRun;

/// Prints and keeps it.
pub(super) fn check(
    run: &TrainingRun,
    settings: &WarmupSettings,
    source: &Source,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let options = LoadOptions { threads: Some(run.threads), ..LoadOptions::default() };
    let mut model = load(&run.model_folder(), &options)?;
    let prompts = source.check_prompts(settings.check_problems, &model)?;
    let sampling = Sampling::at_temperature(1.0);
    let how = (settings.seed, source.answer_tokens());
    let answers = answer(&mut model, &prompts, &sampling, how)?;
    let (mut whole, mut broken) = (0, 0);
    for written in &answers {
        let counted = count_commands(&text(&model, &written.ids));
        (whole, broken) = (whole + counted.0, broken + counted.1);
    }
    let percent = 100.0 * f64::from(whole) / f64::from((whole + broken).max(1));
    writeln!(
        output,
        "{whole} commands in {} sampled answers, {percent:.1} % of all tries well-formed",
        answers.len()
    )?;
    let mut results = Map::from_iter([
        ("answers".to_owned(), json!(answers.len())),
        ("commands".to_owned(), json!(whole)),
        ("broken".to_owned(), json!(broken)),
        ("well_formed_percent".to_owned(), json!(percent)),
    ]);
    if let Source::World { .. } = source {
        results.extend(score_world(&mut model, settings, output)?);
    }
    let kept = serde_json::to_string_pretty(&results)? + "\n";
    write_aside(&run.out.join("check.json"), kept.as_bytes())
}

/// How often the model is still right. Sampled answers hold commands: how much these confuse it is
/// seen here.
fn score_world(
    model: &mut LoadedModel,
    settings: &WarmupSettings,
    output: &mut impl Write,
) -> anyhow::Result<Vec<(String, Value)>> {
    let mut results = Vec::new();
    for (name, sampling) in
        [("greedy", Sampling::GREEDY), ("sampled", Sampling::at_temperature(1.0))]
    {
        let scores = score(model, settings.check_problems, &sampling, settings.seed)?;
        for score in &scores {
            writeln!(output, "{name} {score}")?;
        }
        results.push((name.to_owned(), json!(scores)));
    }
    Ok(results)
}
