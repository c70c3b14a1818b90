//! The forward pass of devices. On this processor it runs everywhere, and gives the numbers of our
//! own kernels; on a card it runs where the build has the feature and the machine the card.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use relay_model::{
    DeviceChoice, DevicePrecision, KvCache, KvPrecision, LanguageModel, LoadOptions, Logits,
    LogitsWanted, ModelError, Row, load,
};

use crate::tiny_file::{
    HEAD_WIDTH, HEADS, KV_HEADS, LAYERS, TinyFile, VOCABULARY, WIDTH, file_bytes, metadata, noise,
    tensors,
};

/// How far two logits of the same token may lie apart, over the largest logit of the position.
const RELATIVE: f32 = 1e-4;

fn ids(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * 7919 + i * i * 31) % 259).collect()
}

/// What the families differ in.
#[derive(Debug, Clone, Copy)]
enum Family {
    /// Interleaved rotary pairs, tied embeddings.
    Llama,
    /// Llama 3: frequencies that are divided, and an output layer of its own.
    Llama3,
    /// Biases on queries, keys and values; rotary halves.
    Qwen2,
    /// Norms on queries and keys; heads that are not as wide as the width says.
    Qwen3,
}

const FAMILIES: [Family; 4] = [Family::Llama, Family::Llama3, Family::Qwen2, Family::Qwen3];

impl Family {
    fn file(self) -> TinyFile {
        let (mut metadata, mut tensors) = (metadata(), tensors());
        let mut add = |name: String, shape: &[usize], scale: f32, centre: f32| {
            let values = noise(shape.iter().product(), tensors.len() as u64 + 77);
            let values = values.into_iter().map(|value| value * scale + centre).collect();
            tensors.retain(|tensor| tensor.0 != name);
            tensors.push((name, shape.to_vec(), values));
        };
        let (query, kv) = (HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH);
        if matches!(self, Self::Llama3) {
            add("rope_freqs.weight".to_owned(), &[HEAD_WIDTH / 2], 1.5, 2.5);
            add("output.weight".to_owned(), &[VOCABULARY, WIDTH], 1.0, 0.0);
        }
        for layer in 0..LAYERS {
            let mut of_layer = |part: &str, shape: &[usize], scale, centre| {
                add(format!("blk.{layer}.{part}"), shape, scale, centre);
            };
            if matches!(self, Self::Qwen2) {
                of_layer("attn_q.bias", &[query], 1.0, 0.0);
                of_layer("attn_k.bias", &[kv], 1.0, 0.0);
                of_layer("attn_v.bias", &[kv], 1.0, 0.0);
            }
            if matches!(self, Self::Qwen3) {
                of_layer("attn_q.weight", &[HEADS * WIDE_HEAD, WIDTH], 0.4, 0.0);
                of_layer("attn_k.weight", &[KV_HEADS * WIDE_HEAD, WIDTH], 0.4, 0.0);
                of_layer("attn_v.weight", &[KV_HEADS * WIDE_HEAD, WIDTH], 0.2, 0.0);
                of_layer("attn_output.weight", &[WIDTH, HEADS * WIDE_HEAD], 0.2, 0.0);
                of_layer("attn_q_norm.weight", &[WIDE_HEAD], 0.3, 1.0);
                of_layer("attn_k_norm.weight", &[WIDE_HEAD], 0.3, 1.0);
            }
        }
        if let Some(name) = self.renamed() {
            for (key, value) in &mut metadata {
                *key = key.replace("llama.", &format!("{name}."));
                match key.as_str() {
                    "general.architecture" => *value = Value::String(name.to_owned()),
                    "qwen3.rope.dimension_count" => *value = Value::U32(24),
                    _ => {}
                }
            }
        }
        for key in ["key_length", "value_length"].iter().filter(|_| matches!(self, Self::Qwen3)) {
            metadata.push((format!("qwen3.attention.{key}"), Value::U32(24)));
        }
        TinyFile::with_bytes(&file_bytes(&metadata, &tensors, GgmlDType::F32))
    }

    fn renamed(self) -> Option<&'static str> {
        match self {
            Self::Llama | Self::Llama3 => None,
            Self::Qwen2 => Some("qwen2"),
            Self::Qwen3 => Some("qwen3"),
        }
    }
}

/// Heads of the Qwen3 file: 4 of 24 in a width of 64.
const WIDE_HEAD: usize = 24;

fn load_on(
    family: Family,
    device: DeviceChoice,
    device_precision: DevicePrecision,
) -> Result<Box<dyn LanguageModel>, ModelError> {
    let kv_precision = KvPrecision::F32;
    let options = LoadOptions { device, device_precision, kv_precision, ..LoadOptions::default() };
    load(&family.file().path, &options).map(|loaded| loaded.model)
}

fn tiny(device: DeviceChoice, precision: DevicePrecision) -> Box<dyn LanguageModel> {
    load_on(Family::Llama, device, precision).unwrap()
}

fn run(model: &mut dyn LanguageModel, cache: &mut KvCache, tokens: &[u32]) -> Logits {
    let row = Row { tokens, cache, logits: LogitsWanted::All };
    model.forward(&mut [row]).unwrap().remove(0)
}

fn fresh(model: &mut dyn LanguageModel, tokens: &[u32]) -> Logits {
    let mut cache = model.new_cache();
    run(model, &mut cache, tokens)
}

fn positions(logits: &Logits) -> Vec<Vec<f32>> {
    (0..logits.rows()).map(|row| logits.row(row).to_vec()).collect()
}

/// The largest distance of two positions' logits, over the largest logit.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    assert_eq!(left.len(), right.len());
    assert!(left.iter().chain(right).all(|value| value.is_finite()));
    let largest = left.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let apart = left.iter().zip(right).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, f32::max) / largest
}

fn assert_near(left: &[Vec<f32>], right: &[Vec<f32>], relative: f32) {
    assert_eq!(left.len(), right.len());
    for (position, (left, right)) in left.iter().zip(right).enumerate() {
        let distance = distance(left, right);
        assert!(distance < relative, "position {position}: {distance}");
    }
}

/// All that a device's forward pass promises, on one device.
fn check(device: DeviceChoice, precision: DevicePrecision, relative: f32) {
    let tokens = ids(290);
    for family in FAMILIES {
        println!("{family:?} on {device}, {precision:?}");
        let mut model = load_on(family, device, precision).unwrap();
        let whole = positions(&fresh(&mut *model, &tokens));
        let mut on_cpu = load_on(family, DeviceChoice::Cpu, precision).unwrap();
        assert_near(&whole, &positions(&fresh(&mut *on_cpu, &tokens)), relative);
        check_chunks(&mut *model, &tokens, &whole, relative);
        check_rows(&mut *model, relative);
        check_cuts_and_forks(&mut *model, &tokens, &whole, relative);
    }
}

fn check_chunks(model: &mut dyn LanguageModel, tokens: &[u32], whole: &[Vec<f32>], relative: f32) {
    for chunk in [1, 31, 32, 33, 200] {
        let mut cache = model.new_cache();
        let chunks = tokens.chunks(chunk).flat_map(|tokens| {
            let logits = run(model, &mut cache, tokens);
            positions(&logits)
        });
        assert_near(&chunks.collect::<Vec<_>>(), whole, relative);
        assert_eq!(cache.len_tokens(), tokens.len());
        let bytes = tokens.len().next_multiple_of(relay_model::PAGE_TOKENS)
            * model.shape().kv_bytes_per_token;
        assert_eq!(cache.bytes(), bytes);
    }
}

fn check_rows(model: &mut dyn LanguageModel, relative: f32) {
    let held: Vec<Vec<u32>> = [0, 45, 64, 5].map(ids).into();
    let new: Vec<Vec<u32>> = [150, 1, 33, 110].map(ids).into();
    let wanted = [LogitsWanted::Last, LogitsWanted::All, LogitsWanted::None, LogitsWanted::All];
    let mut caches: Vec<KvCache> = held.iter().map(|_| model.new_cache()).collect();
    for (tokens, cache) in held.iter().zip(&mut caches).filter(|(tokens, _)| !tokens.is_empty()) {
        run(model, cache, tokens);
    }
    let mut rows: Vec<Row<'_>> = (new.iter().zip(&mut caches).zip(wanted))
        .map(|((tokens, cache), logits)| Row { tokens, cache, logits })
        .collect();
    let together = model.forward(&mut rows).unwrap();
    for (index, (held, new)) in held.iter().zip(&new).enumerate() {
        let alone = positions(&fresh(model, &[held.as_slice(), new].concat()));
        let count = wanted[index].positions(new.len());
        assert_near(&positions(&together[index]), &alone[alone.len() - count..], relative);
    }
}

fn check_cuts_and_forks(
    model: &mut dyn LanguageModel,
    tokens: &[u32],
    whole: &[Vec<f32>],
    relative: f32,
) {
    for cut in [0, 1, 31, 32, 33, 64, 99] {
        let mut cache = model.new_cache();
        run(model, &mut cache, &tokens[..100]);
        let mut fork = cache.fork();
        fork.truncate(cut);
        let other = run(model, &mut fork, &[3; 40]);
        let expected = fresh(model, &[&tokens[..cut], &[3; 40]].concat());
        assert_near(&positions(&other), &positions(&expected)[cut..], relative);
        let continued = run(model, &mut cache, &tokens[100..140]);
        assert_near(&positions(&continued), &whole[100..140], relative);
    }
}

#[test]
fn this_processor_gives_the_numbers_of_our_kernels() {
    check(DeviceChoice::CandleCpu, DevicePrecision::F32, RELATIVE);
}

#[test]
fn two_bytes_a_weight_are_near_and_half_as_many() {
    let mut wide = tiny(DeviceChoice::CandleCpu, DevicePrecision::F32);
    let expected = positions(&fresh(&mut *wide, &ids(60)));
    for (precision, relative) in [(DevicePrecision::F16, 0.02), (DevicePrecision::Bf16, 0.15)] {
        let mut model = tiny(DeviceChoice::CandleCpu, precision);
        assert_near(&positions(&fresh(&mut *model, &ids(60))), &expected, relative);
        assert_eq!(model.shape().kv_bytes_per_token * 2, wide.shape().kv_bytes_per_token);
        let narrowed = wide.shape().weight_bytes - model.shape().weight_bytes;
        assert!(narrowed * 20 > wide.shape().weight_bytes * 9);
    }
}

#[test]
fn numbers_beyond_the_range_of_f16_are_refused_and_not_made_infinite() {
    let mut tensors = tensors();
    tensors[0].2[7] = 65_520.0;
    let file = TinyFile::with_bytes(&file_bytes(&metadata(), &tensors, GgmlDType::F32));
    let load_in = |device_precision| {
        let device = DeviceChoice::CandleCpu;
        load(&file.path, &LoadOptions { device, device_precision, ..LoadOptions::default() })
    };
    let refusal = load_in(DevicePrecision::F16).unwrap_err().to_string();
    for part in ["candle-cpu", "token_embd.weight", "range of f16", "device_precision = \"bf16\""] {
        assert!(refusal.contains(part), "{refusal}");
    }
    load_in(DevicePrecision::Bf16).unwrap();
}

/// Two clouds that may write other tokens must not announce the same model.
#[test]
fn what_computes_and_in_which_numbers_is_part_of_the_identity() {
    let file = Family::Llama.file();
    let identity = |device, device_precision, kv_precision| {
        let options =
            LoadOptions { device, device_precision, kv_precision, ..LoadOptions::default() };
        load(&file.path, &options).unwrap().identity
    };
    let (wide, narrow) = (DevicePrecision::F32, DevicePrecision::Bf16);
    let all = [
        identity(DeviceChoice::Cpu, narrow, KvPrecision::F16),
        identity(DeviceChoice::Cpu, narrow, KvPrecision::F32),
        identity(DeviceChoice::CandleCpu, narrow, KvPrecision::F16),
        identity(DeviceChoice::CandleCpu, wide, KvPrecision::F16),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all[index + 1..].iter().all(|other| other.hash != one.hash), "{index}");
        assert_eq!(one.name, all[0].name);
    }
    // What is not used there changes nothing.
    assert_eq!(all[0], identity(DeviceChoice::Cpu, wide, KvPrecision::F16));
    assert_eq!(all[2], identity(DeviceChoice::CandleCpu, narrow, KvPrecision::F32));
}

#[test]
fn what_cannot_be_run_is_refused_and_changes_nothing() {
    let mut model = tiny(DeviceChoice::CandleCpu, DevicePrecision::F32);
    let mut cache = model.new_cache();
    run(&mut *model, &mut cache, &ids(10));
    for tokens in [&[][..], &[259], &ids(291)] {
        let row = Row { tokens, cache: &mut cache, logits: LogitsWanted::Last };
        assert!(model.forward(&mut [row]).unwrap_err().to_string().contains("row 0"));
        assert_eq!(cache.len_tokens(), 10);
    }
    let mut others = [
        tiny(DeviceChoice::Cpu, DevicePrecision::F32),
        tiny(DeviceChoice::CandleCpu, DevicePrecision::F16),
    ];
    for other in &mut others {
        let mut foreign = other.new_cache();
        for (model, cache) in [(&mut model, &mut foreign), (other, &mut cache)] {
            let row = Row { tokens: &[1], cache, logits: LogitsWanted::Last };
            assert!(matches!(model.forward(&mut [row]), Err(ModelError::ForeignCache { row: 0 })));
        }
    }
    assert!(model.forward(&mut []).unwrap().is_empty());
}

/// Runs `check` on a device of this build, or says why it did not.
#[cfg(any(feature = "cuda", feature = "metal"))]
fn check_if_there(device: DeviceChoice) {
    match load_on(Family::Llama, device, DevicePrecision::F32) {
        Err(ModelError::Device(fault)) => {
            println!("SKIPPED: no device here: {fault}");
        }
        loaded => {
            drop(loaded.unwrap());
            check(device, DevicePrecision::F32, RELATIVE);
            check(device, DevicePrecision::F16, 0.02);
            check(device, DevicePrecision::Bf16, 0.15);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn a_card_gives_the_numbers_of_our_kernels() {
    check_if_there(DeviceChoice::Cuda(0));
}

#[cfg(feature = "metal")]
#[test]
fn an_apple_processor_gives_the_numbers_of_our_kernels() {
    check_if_there(DeviceChoice::Metal);
}
