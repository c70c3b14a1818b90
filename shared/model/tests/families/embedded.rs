//! A folder inside of the program is the folder on disk: the same model in all it says of itself.
//! The tiny pair is such folders, and what was put there.

use std::collections::BTreeSet;
use std::path::Path;

use relay_model::{
    EMBEDDED, EmbeddedFolder, LoadOptions, ModelForm, ModelSource, TINY_LLM, TINY_SLM, inspect,
    load,
};
use sha2::{Digest, Sha256};

use crate::case::{all_at_once, vectors};
use crate::folder::Folder;

/// The tiny pair's files with their hashes, as `sha256sum --check` reads them.
const HASHES: &str = include_str!("../../assets/tiny-pair/SHA256SUMS");

/// The folder's files as if the program held them, under the folder's own name.
fn embed(folder: &Folder) -> &'static EmbeddedFolder {
    let entries = std::fs::read_dir(&folder.path).unwrap();
    let files = entries.map(|entry| -> (&str, &[u8]) {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name.leak(), std::fs::read(entry.path()).unwrap().leak())
    });
    let files: Vec<(&str, &[u8])> = files.collect();
    Box::leak(Box::new(EmbeddedFolder { name: "tiny-model", files: files.leak() }))
}

#[test]
fn an_embedded_folder_is_the_folder() {
    let (ids, options) = (vectors().ids, LoadOptions::default());
    for case in vectors().cases {
        for folder in [Folder::of(&case, "F32"), Folder::in_shards(&case, "BF16")] {
            let embedded = ModelSource::Embedded(embed(&folder));
            let mut on_disk = folder.load();
            let mut inside = load(embedded.clone(), &options).unwrap();
            assert_eq!(inside.identity, on_disk.identity, "{}", case.name);
            let logits = all_at_once(&mut *inside.model, &ids);
            assert_eq!(logits, all_at_once(&mut *on_disk.model, &ids), "{}", case.name);
            assert!(inside.chat_template.is_some());
            let fingerprints = [&inside, &on_disk].map(|model| model.tokenizer.fingerprint(&[]));
            assert_eq!(fingerprints[0], fingerprints[1]);
            let mut card = inspect(embedded, &options).unwrap();
            assert_eq!(card.form, ModelForm::Embedded);
            card.form = ModelForm::Folder;
            assert_eq!(card, inspect(&folder.path, &options).unwrap());
        }
    }
}

#[test]
fn what_an_embedded_folder_lacks_is_named() {
    static EMPTY: EmbeddedFolder = EmbeddedFolder { name: "empty", files: &[] };
    static BROKEN: EmbeddedFolder =
        EmbeddedFolder { name: "broken", files: &[("config.json", b"[]")] };
    for (folder, expected) in [
        (&EMPTY, "embedded/empty: there is no config.json"),
        (&BROKEN, "embedded/broken/config.json: this is not a JSON object"),
    ] {
        let error = load(ModelSource::Embedded(folder), &LoadOptions::default()).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn every_file_of_the_tiny_pair_has_the_hash_that_is_written_down() {
    let sides = [("slm", &TINY_SLM), ("llm", &TINY_LLM)];
    let files: Vec<(&str, &str, &[u8])> = sides
        .iter()
        .flat_map(|(side, folder)| folder.files.iter().map(|(name, bytes)| (*side, *name, *bytes)))
        .collect();
    let line = |(side, name, bytes): &(&str, &str, &[u8])| {
        format!("{:x}  {side}/{name}", Sha256::digest(bytes))
    };
    let found: BTreeSet<String> = files.iter().map(line).collect();
    let written: BTreeSet<String> = HASHES.lines().map(str::to_owned).collect();
    assert_eq!(found, written, "run write-hashes.sh beside the models");
    let bytes: usize = files.iter().map(|file| file.2.len()).sum();
    assert!(bytes <= 16 << 20, "{bytes} bytes are too many to carry");
}

#[test]
fn the_tiny_pair_is_a_pair() {
    let card = |folder| {
        let source = ModelSource::named(Path::new(EMBEDDED), folder);
        inspect(source, &LoadOptions::default()).unwrap()
    };
    let (slm, llm) = (card(&TINY_SLM), card(&TINY_LLM));
    assert_eq!((slm.name.as_str(), llm.name.as_str()), ("relay-tiny-slm", "relay-tiny-llm"));
    assert_eq!(slm.vocabulary.fingerprint, llm.vocabulary.fingerprint);
    assert!(slm.parameters < llm.parameters, "{} {}", slm.parameters, llm.parameters);
    assert!(slm.chat_template.is_some());
}
