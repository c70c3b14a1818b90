//! Where a GGUF file's tensors lie, and what its optional keys are called: wrong places and names are
//! noticed, right ones of any kind are taken.

use candle_core::quantized::gguf_file::Value;
use relay_model::{LoadOptions, LogitsWanted, Row, load};

use crate::allocations;
use crate::bad_files::{PEAK_BYTES_MAX, changed, refusal};
use crate::raw_gguf::{RawFile, RawTensor, list_bytes};
use crate::tiny_file::{TinyFile, metadata, tensors};

#[test]
fn tensors_that_lie_wrongly_are_named() {
    type Change = fn(&mut RawTensor);
    let name = "blk.1.ffn_up.weight";
    let table: [(&str, Change); 14] = [
        ("but the F32 tensor blk.1.ffn_gate.weight before it puts it at", |tensor| {
            tensor.offset -= 32;
        }),
        ("lies at 0, but", |tensor| tensor.offset = 0),
        ("before it puts it at", |tensor| tensor.offset += 4),
        ("before it puts it at", |tensor| tensor.offset += 32),
        ("but the F16 tensor blk.1.ffn_up.weight before it puts it at", |tensor| {
            tensor.type_code = 1;
        }),
        ("but the F32 tensor blk.1.ffn_up.weight before it puts it at", |tensor| {
            tensor.dimensions[1] -= 1;
        }),
        ("does not lie inside", |tensor| tensor.offset = 1 << 40),
        ("does not lie inside", |tensor| tensor.offset = u64::MAX - 31),
        ("does not lie inside", |tensor| tensor.dimensions[1] = 1 << 30),
        ("impossible shape", |tensor| tensor.dimensions[1] = u64::MAX),
        ("impossible shape", |tensor| tensor.dimensions = vec![1 << 32, 1 << 32, 2]),
        ("impossible shape", |tensor| tensor.dimensions[0] = 0),
        ("impossible shape", |tensor| tensor.type_code = 12),
        ("5 dimensions", |tensor| tensor.dimensions = vec![1; 5]),
    ];
    for (expected, change) in table {
        let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
        change(file.tensor_mut(name));
        let message = refusal(&file.bytes());
        assert!(message.contains(expected) && message.contains(name), "{expected}: {message}");
    }
}

/// The place of the next tensor tells how long one is; behind the last one the file ends.
#[test]
fn a_file_that_goes_on_behind_its_last_tensor_is_refused() {
    let message = refusal(&[changed(|_, _| {}), vec![0; 32]].concat());
    let expected =
        "bytes follow, where the F32 tensor blk.2.ffn_down.weight before it ends the file";
    assert!(message.contains(expected), "{message}");
    let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
    file.tensor_mut("blk.2.ffn_down.weight").type_code = 1;
    let message = refusal(&file.bytes());
    assert!(message.contains("the F16 tensor blk.2.ffn_down.weight before it"), "{message}");
    let mut unpadded = changed(|_, tensors| tensors.truncate(2));
    unpadded.truncate(unpadded.len() - 1);
    assert!(refusal(&unpadded).contains("does not lie inside"));
}

/// The same weights at other places are the same model.
#[test]
fn the_files_own_alignment_is_honoured() {
    let first_logits = |alignment: u32| {
        let mut metadata = metadata();
        metadata.push(("general.alignment".to_owned(), Value::U32(alignment)));
        let raw = RawFile::tiny(&metadata, &tensors(), alignment as usize);
        let file = TinyFile::with_bytes(&raw.bytes());
        let mut model = load(&file.path, &LoadOptions::default()).unwrap().model;
        let mut cache = model.new_cache();
        let row = Row { tokens: &[5, 6], cache: &mut cache, logits: LogitsWanted::All };
        model.forward(&mut [row]).unwrap().remove(0)
    };
    let expected = first_logits(32);
    for alignment in [1, 8, 64, 4096] {
        assert_eq!(first_logits(alignment), expected, "alignment {alignment}");
    }
}

/// A key that may be left out would not be missed.
#[test]
fn a_flipped_bit_in_the_name_of_an_optional_key_is_noticed() {
    let mut metadata = metadata();
    metadata.push(("general.alignment".to_owned(), Value::U32(64)));
    metadata.push(("llama.attention.key_length".to_owned(), Value::U32(16)));
    metadata.push(("tokenizer.ggml.add_bos_token".to_owned(), Value::U32(0)));
    let good = RawFile::tiny(&metadata, &tensors(), 64).bytes();
    load(&TinyFile::with_bytes(&good).path, &LoadOptions::default()).unwrap();
    for key in [
        "general.alignment",
        "llama.attention.head_count_kv",
        "llama.attention.key_length",
        "llama.rope.freq_base",
        "llama.rope.dimension_count",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.chat_template",
    ] {
        let places =
            good.windows(key.len()).enumerate().filter(|(_, name)| *name == key.as_bytes());
        let at = places.map(|(at, _)| at).next().unwrap();
        for flip in 0..8 * key.len() {
            let mut bytes = good.clone();
            bytes[at + flip / 8] ^= 1 << (flip % 8);
            let message = refusal(&bytes);
            assert!(
                message.contains("bit") || message.contains("UTF-8"),
                "{key} {flip}: {message}"
            );
        }
    }
}

/// Lists that nobody asked for cost what they have in the file, however narrow their numbers are.
#[test]
fn a_list_of_numbers_takes_no_more_memory_than_in_the_file() {
    const NUMBERS: usize = 1 << 22;
    let mut file = RawFile::tiny(&metadata(), &tensors(), 32);
    let list = list_bytes(0, NUMBERS as u64, &vec![7; NUMBERS]);
    file.keys.push((b"x".to_vec(), 9, list));
    let file = TinyFile::with_bytes(&file.bytes());
    let before = allocations::start();
    drop(load(&file.path, &LoadOptions { threads: Some(1), ..LoadOptions::default() }).unwrap());
    let peak = allocations::peak_since(before);
    assert!(peak < NUMBERS * 3 / 2 + PEAK_BYTES_MAX, "{peak} bytes at once");
}
