//! What `model show` prints: a table for people or an object for programs. Reads headers only and
//! needs no settings.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use anstyle::Style;
use anyhow::bail;
use relay::command::TAGS;
use relay_edge::EdgeError;
use relay_model::{
    FileChecksum, LoadOptions, ModelCard, ModelForm, ModelSource, TINY_SLM, checksums, inspect,
};
use serde::Serialize;

use crate::command_line::Show;
use crate::memory::{Fit, free_bytes};

/// How the names of figures look.
const NAME_STYLE: Style = Style::new().dimmed();
/// How the verdict looks.
const VERDICT_STYLE: Style = Style::new().bold();

/// The object that `--json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    card: &'a ModelCard,
    fit: Fit,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    checksums: &'a [FileChecksum],
}

/// Prints what a model is.
pub(crate) fn show_model(show: &Show) -> anyhow::Result<()> {
    let plain_texts = TAGS.map(str::to_owned).to_vec();
    let kv_precision = show.kv_precision;
    let options = LoadOptions { plain_texts, kv_precision, ..LoadOptions::default() };
    let source = ModelSource::named(&show.path, &TINY_SLM);
    let card = inspect(source.clone(), &options)?;
    let checksums = if show.checksum { checksums(source)? } else { Vec::new() };
    let context_tokens = show.context.unwrap_or(card.context_tokens);
    if context_tokens == 0 || context_tokens > card.context_tokens {
        bail!(
            "--context {context_tokens}: the model attends to at most {} tokens; choose from 1 to \
             that",
            card.context_tokens
        );
    }
    let fit = Fit::new(&card, context_tokens, free_bytes());
    let text = if show.json {
        serde_json::to_string(&Shown { card: &card, fit, checksums: &checksums })? + "\n"
    } else {
        table(&card, &fit, &checksums)
    };
    let mut out = anstream::stdout();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    Ok(written.map_err(EdgeError::Output)?)
}

fn table(card: &ModelCard, fit: &Fit, checksums: &[FileChecksum]) -> String {
    let mut rows = rows(card, fit);
    for (index, FileChecksum { file, sha256 }) in checksums.iter().enumerate() {
        rows.push((if index == 0 { "sha-256" } else { "" }, format!("{sha256}  {file}")));
    }
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{NAME_STYLE}{name:width$}{NAME_STYLE:#}  {value}");
    }
    text
}

/// Names and values; a row without a name goes on with the one above.
fn rows(card: &ModelCard, fit: &Fit) -> Vec<(&'static str, String)> {
    let form = match card.form {
        ModelForm::Gguf => "GGUF file",
        ModelForm::Folder => "folder",
        ModelForm::Embedded => "embedded",
    };
    let mut rows = vec![
        ("model", format!("{} ({form}, weights {})", card.name, card.weights_hash)),
        ("family", family(card)),
        ("parameters", Scaled(card.parameters, "").to_string()),
        ("weights", weights(card)),
    ];
    for share in &card.tensors {
        let (format, tensors) = (share.format, share.tensors);
        rows.push(("", format!("{format:5} {}, tensors {tensors}", bytes(share.bytes))));
    }
    let vocabulary = &card.vocabulary;
    let ends = vocabulary.end_tokens.iter().map(|end| format!("{} {}", end.id, end.text));
    rows.extend([
        ("context", format!("{} tokens", card.context_tokens)),
        ("vocabulary", format!("{} tokens", vocabulary.tokens)),
        ("fingerprint", vocabulary.fingerprint.clone()),
        ("end tokens", ends.collect::<Vec<_>>().join(", ")),
        ("pre-tokenizer", vocabulary.pre_tokenizer.to_owned()),
        ("chat template", template(card)),
        ("keys and values", kv(card, fit)),
        ("this machine", format!("{VERDICT_STYLE}{}{VERDICT_STYLE:#}", verdict(fit))),
        (
            "read",
            "headers and tokenizer; the weights' numbers are checked when it is loaded".into(),
        ),
    ]);
    rows
}

fn weights(card: &ModelCard) -> String {
    format!("{} in the file, {} in memory", bytes(card.stored_bytes), bytes(card.resident_bytes))
}

fn family(card: &ModelCard) -> String {
    format!(
        "{}: layers {}, width {}, heads {} of {}, {} with keys and values",
        card.family, card.layers, card.width, card.heads, card.head_width, card.kv_heads
    )
}

fn template(card: &ModelCard) -> String {
    let Some(template) = &card.chat_template else {
        return "none: only --raw-prompt works".to_owned();
    };
    if let Some(fault) = &template.fault {
        return format!("broken, only --raw-prompt works: {fault}");
    }
    let thinking =
        if template.thinking { "thinking can be switched" } else { "no thinking switch" };
    let tools = if template.tools { "tools" } else { "no tools" };
    format!("found, {thinking}, {tools}")
}

fn kv(card: &ModelCard, fit: &Fit) -> String {
    let of_token = bytes(card.kv_bytes_per_token);
    let (precision, all) = (card.kv_precision, bytes(fit.kv_bytes));
    format!("{of_token} a token as {precision}, {all} for {}", fit.context_tokens)
}

fn verdict(fit: &Fit) -> String {
    let (needed, free) = (bytes(fit.needed_bytes), bytes(fit.free_bytes));
    match fit.fitting_tokens {
        0 => format!(
            "does not fit: needs {needed}, {free} free; choose a smaller model, one with fewer bits \
             a weight, or a smaller --context"
        ),
        tokens if tokens == fit.context_tokens => {
            format!("fits with {tokens} tokens of context: needs {needed}, {free} free")
        }
        tokens => format!(
            "fits with {tokens} tokens of context; all {} need {needed}, {free} free",
            fit.context_tokens
        ),
    }
}

fn bytes(bytes: u64) -> String {
    Scaled(bytes, "B").to_string()
}

/// A count in thousands, millions or billions, with its unit.
struct Scaled(u64, &'static str);

impl fmt::Display for Scaled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, unit) = *self;
        let scales = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        let Some((scale, prefix)) = scales.into_iter().find(|(scale, _)| count >= *scale) else {
            return write!(formatter, "{}", format!("{count} {unit}").trim_end());
        };
        // Parameters are counted in billions, not in giga.
        let prefix = if unit.is_empty() && prefix == "G" { "B" } else { prefix };
        let tenths = u128::from(count) * 10 / u128::from(scale);
        write!(formatter, "{}.{} {prefix}{unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use relay_model::{EndToken, KvPrecision, TemplateCard, TensorShare, VocabularyCard};

    pub(crate) fn card(resident_bytes: u64, kv_bytes_per_token: u64) -> ModelCard {
        let share = |format, tensors, bytes| TensorShare { format, tensors, bytes };
        ModelCard {
            name: "Tiny".into(),
            form: ModelForm::Gguf,
            family: "qwen3",
            parameters: 134_515_008,
            layers: 30,
            width: 576,
            heads: 9,
            kv_heads: 3,
            head_width: 64,
            context_tokens: 8192,
            tensors: vec![share("Q4_K", 210, resident_bytes - 9), share("F32", 61, 9)],
            stored_bytes: resident_bytes - 1_000_000.min(resident_bytes),
            resident_bytes,
            kv_precision: KvPrecision::F16,
            kv_bytes_per_token,
            vocabulary: VocabularyCard {
                tokens: 49152,
                fingerprint: "00ff".repeat(8),
                pre_tokenizer: "qwen2",
                end_tokens: vec![EndToken { id: 2, text: "<|im_end|>".into() }],
            },
            chat_template: Some(TemplateCard { fault: None, thinking: true, tools: false }),
            weights_hash: "0123456789abcdef".into(),
        }
    }

    fn plain(card: &ModelCard, free_bytes: u64) -> String {
        let fit = Fit::new(card, card.context_tokens, free_bytes);
        let sums =
            ["a", "b"].map(|file| FileChecksum { file: file.into(), sha256: "01".repeat(32) });
        anstream::adapter::strip_str(&table(card, &fit, &sums)).to_string()
    }

    #[test]
    fn the_table_is_aligned_and_whole() {
        let lines = [
            "model            Tiny (GGUF file, weights 0123456789abcdef)",
            "family           qwen3: layers 30, width 576, heads 9 of 64, 3 with keys and values",
            "parameters       134.5 M",
            "weights          90.7 MB in the file, 91.7 MB in memory",
            "                 Q4_K  91.6 MB, tensors 210",
            "                 F32   9 B, tensors 61",
            "context          8192 tokens",
            "vocabulary       49152 tokens",
            "fingerprint      00ff00ff00ff00ff00ff00ff00ff00ff",
            "end tokens       2 <|im_end|>",
            "pre-tokenizer    qwen2",
            "chat template    found, thinking can be switched, no tools",
            "keys and values  46.0 kB a token as f16, 377.4 MB for 8192",
            "this machine     fits with 8192 tokens of context: needs 569.1 MB, 18.0 GB free",
            "read             headers and tokenizer; the weights' numbers are checked when it is loaded",
            &format!("sha-256          {}  a", "01".repeat(32)),
            &format!("                 {}  b", "01".repeat(32)),
        ];
        let table = plain(&card(91_700_000, 46_080), 18_000_000_000);
        assert_eq!(table.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn the_verdict_names_what_to_do() {
        let mut card = card(4_000_000_000, 1_000_000);
        card.chat_template = None;
        let told = plain(&card, 3_000_000_000);
        assert!(told.contains("does not fit: needs 12.2 GB, 3.0 GB free; choose"), "{told}");
        assert!(told.contains("none: only --raw-prompt works"), "{told}");
        let fault = Some("line 3: what is this?".to_owned());
        card.chat_template = Some(TemplateCard { fault, thinking: false, tools: false });
        let told = plain(&card, 5_000_000_000);
        assert!(told.contains("broken, only --raw-prompt works: line 3: what"), "{told}");
        assert!(told.contains("fits with 900 tokens of context; all 8192 need"), "{told}");
    }

    #[test]
    fn figures_have_one_decimal_and_a_unit() {
        for (count, unit, shown) in [
            (0, "B", "0 B"),
            (999, "B", "999 B"),
            (1_000, "B", "1.0 kB"),
            (46_080, "B", "46.0 kB"),
            (1_999_999_999, "", "1.9 B"),
            (134_515_008, "", "134.5 M"),
            (u64::MAX, "B", "18446744073.7 GB"),
        ] {
            assert_eq!(Scaled(count, unit).to_string(), shown);
        }
    }

    #[test]
    fn the_object_holds_card_and_fit() {
        let card = card(10, 1);
        let fit = Fit::new(&card, 5, u64::MAX);
        let shown = serde_json::to_value(Shown { card: &card, fit, checksums: &[] }).unwrap();
        assert!(shown.get("checksums").is_none());
        assert_eq!(shown["family"], "qwen3");
        assert_eq!(shown["fit"]["fitting_tokens"], 5);
        assert_eq!(shown["vocabulary"]["end_tokens"][0]["text"], "<|im_end|>");
    }
}
