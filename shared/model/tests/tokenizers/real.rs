//! Published tokenizers, where a folder of them is given: nobody else's vocabulary lies in this
//! repository.
//!
//! `RELAY_TOKENIZERS` names a folder. Each `NAME.gguf` in it is read; with `NAME.gguf.inp` and
//! `NAME.gguf.out` beside it (llama.cpp's test vectors: texts, and the ids of each) its ids are held
//! against those. Each folder `NAME/` with a `tokenizer.json` is held against the `tokenizers`
//! crate on the files of `texts/`, and against `NAME.gguf` if that is there.

use std::path::{Path, PathBuf};

use relay_model::{AddedTokens, Tokenizer};

use crate::texts;

const BETWEEN_TEXTS: &str = "\n__ggml_vocab_test__\n";

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("RELAY_TOKENIZERS").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: RELAY_TOKENIZERS names no folder of published tokenizers");
    }
    folder
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

#[test]
fn ids_are_those_of_llama_cpps_vectors() {
    let Some(folder) = folder() else { return };
    let mut files = 0;
    for path in paths(&folder) {
        let inputs = std::fs::read_to_string(beside(&path, ".inp"));
        let (Ok(inputs), true) = (inputs, path.extension().is_some_and(|end| end == "gguf")) else {
            continue;
        };
        let tokenizer = Tokenizer::read(&path).unwrap();
        let outputs = std::fs::read_to_string(beside(&path, ".out")).unwrap();
        let texts: Vec<&str> = inputs.split(BETWEEN_TEXTS).collect();
        assert_eq!(texts.len(), outputs.lines().count(), "{path:?}");
        for (text, line) in texts.iter().zip(outputs.lines()) {
            let expected: Vec<u32> =
                line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, AddedTokens::Parse), expected, "{path:?} {text:?}");
        }
        eprintln!("{}: {} texts have llama.cpp's ids", path.display(), texts.len());
        files += 1;
    }
    assert!(files > 0, "RELAY_TOKENIZERS names a folder without llama.cpp's vectors");
}

#[test]
fn ids_are_those_of_the_reference_and_both_forms_are_one() {
    let Some(folder) = folder() else { return };
    let read = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let mut texts: Vec<String> = paths(&folder.join("texts")).into_iter().map(read).collect();
    texts.extend(texts::NAMED.map(|(_, text)| text.to_owned()));
    let mut folders = 0;
    for path in paths(&folder).into_iter().filter(|path| path.join("tokenizer.json").exists()) {
        let reference = tokenizers::Tokenizer::from_file(path.join("tokenizer.json")).unwrap();
        let ours = Tokenizer::read(&path).unwrap();
        let gguf = beside(&path, ".gguf");
        let gguf = gguf.exists().then(|| Tokenizer::read(&gguf).unwrap());
        let mut ids = 0;
        for text in &texts {
            let expected = reference.encode_fast(text.as_str(), false).unwrap();
            ids += expected.len();
            for tokenizer in [Some(&ours), gguf.as_ref()].into_iter().flatten() {
                let found = tokenizer.encode(text, AddedTokens::Parse);
                assert_eq!(found.len(), expected.len(), "{path:?}");
                let differs = found.iter().zip(expected.get_ids()).position(|(a, b)| a != b);
                assert_eq!(differs, None, "{path:?}");
            }
        }
        let is_one = gguf.map(|gguf| gguf.fingerprint(&[]) == ours.fingerprint(&[]));
        eprintln!("{}: {ids} ids are the reference's; one with GGUF: {is_one:?}", path.display());
        assert_ne!(is_one, Some(false), "{path:?}");
        folders += 1;
    }
    assert!(folders > 0, "RELAY_TOKENIZERS names a folder without a tokenizer.json");
}
