//! `relay-train merge`: adapters become part of the model that they adapt.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use relay_model::ModelNumbers;

use crate::adapter_folder;
use crate::model_folder::read_weights;
use crate::model_writer::Base;

/// Flags of `merge`.
#[derive(Args)]
pub struct Merge {
    /// The model that was adapted: a Hugging Face folder or a GGUF file.
    #[arg(long)]
    from: PathBuf,
    /// The adapters' folder: `adapter/` of their run, or one that PEFT wrote.
    #[arg(long)]
    adapter: PathBuf,
    /// The folder to write the whole model into.
    #[arg(long)]
    out: PathBuf,
}

/// Writes the merged model.
pub fn run(flags: &Merge, output: &mut impl Write) -> anyhow::Result<()> {
    let model = ModelNumbers::open(&flags.from)?;
    let base = Arc::new(read_weights(&model)?);
    let weights = adapter_folder::import(&base, &flags.adapter)?;
    Base::of(&model, &flags.from)?.write_merged(&weights, &flags.out)?;
    let adapters = weights.values.len();
    writeln!(output, "{}: merged, {adapters} numbers of adapters", flags.out.display())?;
    Ok(())
}
