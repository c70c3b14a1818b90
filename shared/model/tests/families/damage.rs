//! Every part of a model's files damaged in turn: bits flipped, the rest cut off, zeros, another
//! file in its place. Whatever comes of it is a verdict in bounded memory: a model that can be used,
//! or an error that names the file and says what to do. What `inspect` lets pass, `load` refuses for
//! its numbers alone.

use std::path::Path;

use candle_core::quantized::GgmlDType;
use relay_model::{
    AddedTokens, ChatOptions, LoadOptions, LoadedModel, LogitsWanted, Message, inspect, load,
};

use crate::allocations;
use crate::case::{Case, case, run};
use crate::folder::Folder;
use crate::gguf::GgufFile;
use crate::quantised::wide_case;

/// What reading any damaged file of these may take at once: a few times the files themselves.
const PEAK_BYTES_MAX: usize = 4 << 20;
/// The longest error: it may tell a part of what stands in a file.
const ERROR_BYTES_MAX: usize = 2000;
/// Of each family one, with all that families differ in.
const CASES: [&str; 3] = ["llama3-scaled", "qwen2-untied", "qwen3-tied"];

/// The same choices in every run.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % bound
    }
}

/// What reading a model came to; how often each, so that a test sees that it tests something.
#[derive(Debug, Default)]
struct Verdicts {
    used: usize,
    refused: usize,
}

impl Verdicts {
    /// Reads the model at `path`, of which the file `name` was damaged as `how` says.
    fn judge(&mut self, path: &Path, name: &str, how: &str) {
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let before = allocations::start();
        let loaded = load(path, &options);
        let peak_bytes = allocations::peak_since(before);
        assert!(peak_bytes < PEAK_BYTES_MAX, "{name}, {how}: {peak_bytes} bytes at once");
        let inspected = inspect(path, &options).map(drop).map_err(|error| error.to_string());
        let Err(error) = loaded.map(|model| use_model(model, how)) else {
            assert_eq!(inspected, Ok(()), "{name}, {how}");
            self.used += 1;
            return;
        };
        let error = error.to_string();
        let has_bad_numbers = ["values that are not numbers", "nothing but zero bytes"]
            .iter()
            .any(|fault| error.contains(fault));
        assert!(inspected.is_err() || has_bad_numbers, "{name}, {how}: {error}");
        assert!(error.contains(path.to_str().unwrap()), "{name}, {how}: {error}");
        assert!(error.contains("; "), "{name}, {how}, says not what to do: {error}");
        assert!(error.len() < ERROR_BYTES_MAX, "{name}, {how}: a page of an error: {error}");
        self.refused += 1;
    }
}

/// Numbers may have changed, so answers may be nonsense; that they come is what matters.
fn use_model(mut loaded: LoadedModel, how: &str) {
    let ids = loaded.tokenizer.encode("hi <call> é 12", AddedTokens::Parse);
    let rows = loaded.model.shape().vocabulary_tokens;
    assert!(ids.iter().all(|id| (*id as usize) < rows), "{how}: {ids:?}");
    if let Some(template) = loaded.chat_template {
        let said = [Message::new("user", "hi")];
        drop(template.encode_chat(&loaded.tokenizer, &said, &ChatOptions::default()));
    }
    let mut cache = loaded.model.new_cache();
    let tokens = [0, 1, 2].map(|token| token % u32::try_from(rows).unwrap());
    if loaded.model.shape().context_tokens >= tokens.len() {
        run(&mut *loaded.model, &mut cache, &tokens, LogitsWanted::Last);
    }
}

/// Every file of a model once, in each of the ways a download goes wrong.
fn damage_whole(write: impl Fn(&[u8]), good: &[u8], judge: &mut impl FnMut(&str)) {
    let mut damage = |how: &str, bytes: &[u8]| {
        write(bytes);
        judge(how);
    };
    damage("emptied", b"");
    damage("all zeros", &vec![0; good.len()]);
    damage("the end zeroed", &[&good[..good.len() / 2], &vec![0; good.len() / 2]].concat());
    damage("a page of a web site", b"<!DOCTYPE html><html><title>404</title></html>\n");
    damage("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    damage("an archive", b"PK\x03\x04\x14\0\0\0\x08\0");
    damage("twice", &[good, good].concat());
    damage("each byte off by one", &good.iter().map(|b| b.wrapping_add(1)).collect::<Vec<_>>());
    for part in 1..24 {
        damage(&format!("cut after {part}/24"), &good[..good.len() * part / 24]);
    }
    damage("cut by a byte", &good[..good.len() - 1]);
    write(good);
}

fn with_flip(good: &[u8], at: usize, bit: usize) -> Vec<u8> {
    let mut bytes = good.to_vec();
    bytes[at] ^= 1 << bit;
    bytes
}

fn gguf_of(case: &Case) -> (GgufFile, Vec<u8>) {
    let file = GgufFile::of(case, GgmlDType::F32);
    let good = std::fs::read(&file.path).unwrap();
    (file, good)
}

/// The entries of the table of tensors, one behind the other: every byte in them is believed.
fn tensor_entries(good: &[u8]) -> Vec<std::ops::Range<usize>> {
    let number = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
    let length = |at: usize| usize::try_from(number(at)).unwrap();
    let name = b"token_embd.weight";
    let mut start = good.windows(name.len()).position(|place| place == name).unwrap() - 8;
    let entry = |_| {
        // Name, number of dimensions, lengths, type, offset.
        let dimensions_at = start + 8 + length(start);
        let end = dimensions_at + 4 + 8 * usize::from(good[dimensions_at]) + 4 + 8;
        let entry = start..end;
        start = end;
        entry
    };
    (0..number(8)).map(entry).collect()
}

/// The tensor behind it, or the file's end, tells that a tensor is not what its entry says: a norm of
/// halves, say, would be read and answer nonsense.
#[test]
fn a_flipped_bit_in_a_tensors_type_or_shape_is_refused() {
    let (file, good) = gguf_of(&case("qwen3-untied"));
    for entry in tensor_entries(&good) {
        let dimensions_at = entry.start + 8 + usize::from(good[entry.start]);
        // The lowest bytes, of which each says something else; name and offset stand around them.
        let lengths = (dimensions_at + 4..entry.end - 12).step_by(8);
        for at in lengths.flat_map(|at| [at, at + 1]).chain([dimensions_at, entry.end - 12]) {
            for bit in 0..8 {
                std::fs::write(&file.path, with_flip(&good, at, bit)).unwrap();
                let verdict = inspect(&file.path, &LoadOptions::default());
                assert!(verdict.is_err(), "bit {bit} of byte {at}: {verdict:?}");
            }
        }
    }
}

#[test]
fn a_gguf_file_damaged_anywhere_gets_a_verdict() {
    let mut choices = Choices(0x9E37_79B9_7F4A_7C15);
    for (index, name) in CASES.into_iter().enumerate() {
        let (file, good) = gguf_of(&case(name));
        let entries = tensor_entries(&good);
        let table = entries[0].start..entries[entries.len() - 1].end;
        let mut places: Vec<(usize, usize)> = Vec::new();
        places.extend((0..24).flat_map(|at| (0..8).map(move |bit| (at, bit))));
        // Each family takes other bytes of the metadata, and another third of the table.
        places.extend((24 + index..table.start).step_by(9).map(|at| (at, choices.below(8))));
        places.extend((table.start + index..table.end).step_by(3).map(|at| (at, at % 8)));
        places.extend((0..150).map(|_| (choices.below(good.len()), choices.below(8))));
        let mut verdicts = Verdicts::default();
        for (at, bit) in places {
            std::fs::write(&file.path, with_flip(&good, at, bit)).unwrap();
            verdicts.judge(&file.path, name, &format!("bit {bit} of byte {at}"));
        }
        let write = |bytes: &[u8]| std::fs::write(&file.path, bytes).unwrap();
        damage_whole(write, &good, &mut |how| verdicts.judge(&file.path, name, how));
        println!("{name}: {verdicts:?}");
        assert!(verdicts.used > 100 && verdicts.refused > 300, "{name}: {verdicts:?}");
    }
}

/// In turns of the same few damages each, all that a folder may hold beside the usual four files, and
/// blocks of codes, whose scales are numbers of their own.
#[test]
fn rarer_files_and_blocks_damaged_anywhere_get_a_verdict() {
    let mut choices = Choices(0xA076_1D64_78BD_642F);
    let mut verdicts = Verdicts::default();
    let case = case("llama-untied");
    let folder = Folder::in_shards(&case, "F16");
    folder.write("generation_config.json", br#"{"eos_token_id": [256, 257], "top_p": 0.9}"#);
    folder
        .write("chat_template.jinja", b"{% for m in messages %}{{ m.content | trim }}{% endfor %}");
    for file in ["generation_config.json", "chat_template.jinja", "model.safetensors.index.json"] {
        let good = std::fs::read(folder.path.join(file)).unwrap();
        for at in (choices.below(5)..good.len().min(1500)).step_by(5) {
            let bit = choices.below(8);
            folder.write(file, &with_flip(&good, at, bit));
            verdicts.judge(&folder.path, &case.name, &format!("bit {bit} of byte {at} of {file}"));
        }
        damage_whole(|bytes| folder.write(file, bytes), &good, &mut |how| {
            verdicts.judge(&folder.path, &case.name, &format!("{file}: {how}"));
        });
    }
    let wide = wide_case();
    for (case, dtype) in [
        (&case, GgmlDType::Q4_0),
        (&case, GgmlDType::Q5_1),
        (&case, GgmlDType::Q8_0),
        (&wide, GgmlDType::Q4K),
    ] {
        let file = GgufFile::of(case, dtype);
        let good = std::fs::read(&file.path).unwrap();
        for _ in 0..150 {
            let (at, bit) = (choices.below(good.len()), choices.below(8));
            std::fs::write(&file.path, with_flip(&good, at, bit)).unwrap();
            verdicts.judge(&file.path, &case.name, &format!("{dtype:?}, bit {bit} of byte {at}"));
        }
    }
    println!("{verdicts:?}");
    assert!(verdicts.used > 300 && verdicts.refused > 100, "{verdicts:?}");
}

#[test]
fn a_folder_damaged_anywhere_gets_a_verdict() {
    const FILES: [&str; 4] =
        ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    let mut choices = Choices(0xD1B5_4A32_D192_ED03);
    for name in CASES {
        let folder = Folder::of(&case(name), "BF16");
        let mut verdicts = Verdicts::default();
        for file in FILES {
            let good = std::fs::read(folder.path.join(file)).unwrap();
            // The safetensors header is what is longer than some thousand bytes and believed.
            let believed = good.len().min(4000);
            let mut places: Vec<usize> = (choices.below(13)..believed).step_by(13).collect();
            places.extend((0..60).map(|_| choices.below(good.len())));
            for at in places {
                let bit = choices.below(8);
                folder.write(file, &with_flip(&good, at, bit));
                verdicts.judge(&folder.path, name, &format!("bit {bit} of byte {at} of {file}"));
            }
            damage_whole(|bytes| folder.write(file, bytes), &good, &mut |how| {
                verdicts.judge(&folder.path, name, &format!("{file}: {how}"));
            });
            std::fs::remove_file(folder.path.join(file)).unwrap();
            verdicts.judge(&folder.path, name, &format!("{file}: missing"));
            folder.write(file, &good);
        }
        println!("{name}: {verdicts:?}");
        assert!(verdicts.used > 100 && verdicts.refused > 300, "{name}: {verdicts:?}");
    }
}
