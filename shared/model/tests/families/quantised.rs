//! Every format from load to logits, in rows of 256: against the same values as F32, which candle
//! expanded and the plain kernels multiply.

use candle_core::quantized::GgmlDType;
use relay_model::{LoadOptions, inspect, load};
use serde_json::json;

use crate::case::{Case, all_at_once, case, vectors};
use crate::folder::Folder;
use crate::gguf::GgufFile;
use crate::logits::distance;

/// How far logits may be off, as a share of their row's largest, where activations are rounded to
/// codes of 8 bits on their way into each product: on average over rows, and in the worst one. All
/// formats were seen at 0.018 to 0.019 and 0.027 to 0.031; two neighbouring formats' values lie
/// several times as far apart.
const CODES_TOLERANCE: (f32, f32) = (0.022, 0.04);
/// The same where nothing is rounded that F32 does not round.
const PLAIN_TOLERANCE: (f32, f32) = (1e-6, 1e-6);

/// A layer whose rows hold whole blocks of every format.
pub(crate) fn wide_case() -> Case {
    let mut case = case("qwen3-untied");
    for (key, value) in [
        ("hidden_size", 256),
        ("intermediate_size", 512),
        ("head_dim", 64),
        ("num_hidden_layers", 1),
    ] {
        case.config[key] = json!(value);
    }
    case
}

#[test]
fn every_format_gives_the_logits_of_the_values_it_stands_for() {
    let (case, ids) = (wide_case(), vectors().ids);
    let full = GgufFile::of(&case, GgmlDType::F32).load_exact().model.shape().weight_bytes;
    let full = f64::from(u32::try_from(full).unwrap());
    for (dtype, tolerance, bits) in [
        (GgmlDType::F16, PLAIN_TOLERANCE, 16.0),
        (GgmlDType::BF16, PLAIN_TOLERANCE, 16.0),
        (GgmlDType::Q8_0, CODES_TOLERANCE, 8.5),
        (GgmlDType::Q5_1, CODES_TOLERANCE, 6.0),
        (GgmlDType::Q5_0, CODES_TOLERANCE, 5.5),
        (GgmlDType::Q4_1, CODES_TOLERANCE, 5.0),
        (GgmlDType::Q4_0, CODES_TOLERANCE, 4.5),
        (GgmlDType::Q6K, CODES_TOLERANCE, 6.6),
        (GgmlDType::Q5K, CODES_TOLERANCE, 5.5),
        (GgmlDType::Q4K, CODES_TOLERANCE, 4.5),
    ] {
        let mut model = GgufFile::of(&case, dtype).load_exact().model;
        let ours = all_at_once(&mut *model, &ids);
        let mut plain = GgufFile::dequantised(&case, dtype).load_exact().model;
        let expected = all_at_once(&mut *plain, &ids);
        let apart: Vec<f32> =
            (0..ours.rows()).map(|row| distance(ours.row(row), expected.row(row))).collect();
        let mean = apart.iter().sum::<f32>() / f32::from(u16::try_from(apart.len()).unwrap());
        let worst = apart.iter().copied().fold(0.0, f32::max);
        let share = f64::from(u32::try_from(model.shape().weight_bytes).unwrap()) / full;
        println!("{dtype:?}: {mean}, {worst} at worst; {:.2} bits a weight", 32.0 * share);
        assert!(mean < tolerance.0 && worst < tolerance.1, "{dtype:?}: {mean}, {worst}");
        assert!(32.0 * share < bits * 1.25, "{dtype:?}: {share} of the bytes");
    }
}

/// In blocks of 256, the scale of the last matrix's last block.
#[test]
fn scales_of_long_blocks_that_are_not_numbers_are_named() {
    let case = wide_case();
    // Behind it stand the norms of queries and keys.
    let norms_bytes = 2 * 4 * case.head_width();
    for (dtype, block_bytes, scale_at) in [
        (GgmlDType::Q4K, 144, 0),
        (GgmlDType::Q4K, 144, 2),
        (GgmlDType::Q5K, 176, 0),
        (GgmlDType::Q5K, 176, 2),
        (GgmlDType::Q6K, 210, 208),
    ] {
        let file = GgufFile::of(&case, dtype);
        let mut bytes = std::fs::read(&file.path).unwrap();
        let at = bytes.len() - norms_bytes - block_bytes + scale_at;
        for not_a_number in [0x7C00_u16, 0xFC00, 0x7E01] {
            bytes[at..at + 2].copy_from_slice(&not_a_number.to_le_bytes());
            std::fs::write(&file.path, &bytes).unwrap();
            let message = crate::folder::refusal(&file.path);
            let expected = "tensor blk.0.ffn_down.weight holds values that are not numbers";
            assert!(message.contains(expected), "{dtype:?}: {message}");
        }
    }
}

#[test]
fn what_is_shown_before_loading_is_what_is_held_after() {
    let wide = wide_case();
    let mut tied = case("llama-tied");
    tied.config["hidden_size"] = json!(256);
    for case in [&wide, &tied] {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q4_0, GgmlDType::Q5K] {
            if dtype == GgmlDType::Q5K && case.config["intermediate_size"] != 512 {
                continue;
            }
            let file = GgufFile::of(case, dtype);
            let card = inspect(&file.path, &LoadOptions::default()).unwrap();
            let held = file.load().model.shape().weight_bytes;
            assert_eq!(card.resident_bytes, held as u64, "{} {dtype:?}", case.name);
        }
    }
}

/// A tied embedding that the file repeats is neither held nor counted twice.
#[test]
fn a_tied_embedding_counts_once() {
    let case = case("llama-tied");
    let card = |path| inspect(path, &LoadOptions::default()).unwrap();
    let once = Folder::of(&case, "F32");
    let mut tensors = case.tensors();
    let mut again = tensors[0].clone();
    again.0 = "lm_head.weight".to_owned();
    let embedding_bytes = 4 * again.2.len() as u64;
    tensors.push(again);
    let twice = Folder::without_weights(&case.config);
    twice.write("model.safetensors", &crate::folder::safetensors(&tensors, "F32"));
    let (once, twice) = (card(&once.path), card(&twice.path));
    assert_eq!(twice.parameters, once.parameters);
    assert_eq!(twice.resident_bytes, once.resident_bytes);
    assert_eq!(twice.stored_bytes, once.stored_bytes + embedding_bytes);
}

/// The same weights turned to other positions are another model.
#[test]
fn configuration_is_part_of_an_identity() {
    let identity = |key: &str, value: serde_json::Value| {
        let mut case = case("qwen3-untied");
        case.config[key] = value;
        let folder = Folder::of(&case, "F32");
        let hash = load(&folder.path, &LoadOptions::default()).unwrap().identity.hash;
        (hash, inspect(&folder.path, &LoadOptions::default()).unwrap().weights_hash)
    };
    let (hash, weights_hash) = identity("rms_norm_eps", json!(1e-6));
    assert_eq!((hash, weights_hash.clone()), identity("use_cache", json!(false)));
    for (key, value) in [
        ("rms_norm_eps", json!(1e-5)),
        ("rope_parameters", json!({ "rope_theta": 20_000.0, "rope_type": "default" })),
        ("max_position_embeddings", json!(255)),
    ] {
        let other = identity(key, value);
        assert!(other.0 != hash && other.1 == weights_hash, "{key}");
    }
}

/// What was packed is not held as pages of the file too, and what stays there comes when it is used.
#[cfg(target_os = "linux")]
#[test]
fn pages_of_the_file_are_given_back_as_they_are_packed() {
    let case = wide_case();
    let file = GgufFile::of(&case, GgmlDType::F32);
    let loaded = file.load();
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let name = file.path.to_str().unwrap();
    let of_file = maps.split(name).nth(1).expect("the embedding's rows are read from the file");
    let line = of_file.lines().find(|line| line.starts_with("Rss:")).unwrap();
    let held: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(held < 256, "{held} kB of the file's");
    drop(loaded);
}
