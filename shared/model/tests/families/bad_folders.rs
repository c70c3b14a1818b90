//! Folders that are damaged, foreign or not supported: an error that names file, key or tensor and
//! says what to do. Never a panic, never an allocation the files do not warrant.

use serde_json::{Value, json};

use crate::case::{Case, case};
use crate::folder::{Folder, file_of, refusal, safetensors};

/// What a checkout without Git LFS has in a large file's place.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";

fn with_config(case: &Case, change: impl Fn(&mut Value)) -> Folder {
    let mut config = case.config.clone();
    change(&mut config);
    let folder = Folder::without_weights(&config);
    folder.write("model.safetensors", &safetensors(&case.tensors(), "F32"));
    folder
}

fn assert_says(message: &str, expected: &[&str]) {
    for expected in expected {
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
}

#[test]
fn keys_that_are_missing_impossible_or_not_supported_are_named() {
    let scaling = |kind: &str| json!({ "rope_type": kind, "factor": 4.0 });
    let huge = json!(u64::MAX);
    let table = [
        ("model_type", json!("mamba"), "model type mamba"),
        ("model_type", Value::Null, "model type (none)"),
        ("architectures", json!(["Qwen3ForSequenceClassification"]), "ForSequenceClassification"),
        ("hidden_size", Value::Null, "hidden_size"),
        ("hidden_size", json!("wide"), "hidden_size"),
        ("hidden_size", huge.clone(), "hidden_size"),
        ("hidden_size", json!(128), "tensor model.embed_tokens.weight is [264, 64]"),
        ("vocab_size", huge.clone(), "vocab_size"),
        (
            "vocab_size",
            json!(258),
            "config.json: key vocab_size is 258, but the tokenizer has 259 tokens",
        ),
        ("vocab_size", json!(300), "should be [300, 64]"),
        ("num_hidden_layers", json!(0), "num_hidden_layers"),
        ("num_hidden_layers", huge.clone(), "num_hidden_layers"),
        ("num_hidden_layers", json!(2), "but key num_hidden_layers counts 2 layers only; conf"),
        ("num_hidden_layers", json!(4), "tensor model.layers.3.input_layernorm.weight is missing"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_key_value_heads", json!(3), "4 heads cannot share 3 KV heads"),
        ("num_key_value_heads", Value::Null, "num_key_value_heads"),
        ("head_dim", Value::Null, "head_dim"),
        ("head_dim", json!(15), "heads of 15"),
        ("head_dim", json!(-16), "head_dim"),
        ("intermediate_size", json!(95), "should be [95, 64]"),
        ("max_position_embeddings", Value::Null, "max_position_embeddings"),
        ("rms_norm_eps", json!(0.0), "rms_norm_eps"),
        ("rms_norm_eps", json!("small"), "rms_norm_eps"),
        ("rms_norm_eps", json!(1e-50), "epsilon is no positive 32-bit number"),
        ("rms_norm_eps", json!(1e39), "epsilon is no positive 32-bit number"),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0}), "both given"),
        ("tie_word_embeddings", json!("yes"), "tie_word_embeddings"),
        ("hidden_act", json!("gelu"), "activation \"gelu\""),
        ("attention_bias", json!(true), "attention_bias"),
        ("mlp_bias", json!(true), "mlp_bias"),
        ("num_experts", json!(8), "mixtures of experts"),
        ("quantization_config", json!({ "quant_method": "awq" }), "quantised by awq"),
        ("rope_parameters", json!(7), "rope_parameters"),
        ("rope_parameters", json!({ "rope_theta": -1.0 }), "rope_theta"),
        ("rope_parameters", scaling("yarn"), "rotary scaling yarn"),
        ("rope_parameters", scaling("dynamic"), "rotary scaling dynamic"),
        ("rope_parameters", scaling("llama3"), "low_freq_factor"),
        ("rope_parameters", json!({ "full_attention": { "rope_theta": 1.0 } }), "layer to layer"),
        ("rope_parameters", json!({ "partial_rotary_factor": 0.5 }), "only 0.5 of each head"),
        ("partial_rotary_factor", json!(0.25), "only 0.25 of each head"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "sliding-window"),
    ];
    let case = case("qwen3-untied");
    for (key, value, expected) in table {
        let message = with_config(&case, |config| config[key] = value.clone()).refusal();
        assert_says(&message, &[expected, "tiny-model"]);
    }
}

/// A key that may be left out would not be missed.
#[test]
fn a_flipped_bit_in_the_name_of_an_optional_key_is_noticed() {
    fn flip(object: &mut Value, key: &str, at: usize) {
        let object = object.as_object_mut().unwrap();
        let value = object.remove(key).unwrap_or_else(|| json!("x"));
        let mut name = key.as_bytes().to_vec();
        name[at] ^= 1;
        object.insert(String::from_utf8(name).unwrap(), value);
    }
    let case = case("qwen3-untied");
    for key in [
        "architectures",
        "attention_bias",
        "head_dim",
        "hidden_act",
        "layer_types",
        "mlp_bias",
        "num_experts",
        "num_key_value_heads",
        "num_local_experts",
        "partial_rotary_factor",
        "quantization_config",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "use_sliding_window",
    ] {
        for at in [0, key.len() - 1] {
            let message = with_config(&case, |config| flip(config, key, at)).refusal();
            assert_says(&message, &["config.json", &format!("is one bit away from {key}")]);
        }
    }
    for key in ["rope_theta", "rope_type", "partial_rotary_factor"] {
        let folder = with_config(&case, |config| flip(&mut config["rope_parameters"], key, 0));
        assert_says(&folder.refusal(), &[&format!("is one bit away from {key}")]);
    }
}

#[test]
fn a_linear_scaling_by_one_is_none() {
    let case = case("qwen3-untied");
    let with_factor = |factor: f64| {
        with_config(&case, |config| {
            config["rope_parameters"]["rope_type"] = json!("linear");
            config["rope_parameters"]["factor"] = json!(factor);
        })
    };
    let plain = Folder::of(&case, "F32").load().identity;
    assert_eq!(with_factor(1.0).load().identity, plain);
    assert_says(&with_factor(2.0).refusal(), &["rotary scaling linear"]);
}

#[test]
fn llama3_scaling_is_checked() {
    let case = case("llama3-scaled");
    for (key, value, expected) in [
        ("factor", json!(0.0), "key factor"),
        ("low_freq_factor", json!(4.0), "low_freq_factor must be below"),
        ("high_freq_factor", Value::Null, "key high_freq_factor"),
        ("original_max_position_embeddings", json!(1.5), "original_max_position_embeddings"),
    ] {
        let folder = with_config(&case, |config| config["rope_parameters"][key] = value.clone());
        assert_says(&folder.refusal(), &[expected, "config.json"]);
    }
}

#[test]
fn a_window_narrower_than_the_context_is_refused_where_it_is_switched_on() {
    let with_window = |switch: Value, window: Value| {
        with_config(&case("qwen2-tied"), |config| {
            config["layer_types"] = Value::Null;
            config["use_sliding_window"] = switch.clone();
            config["sliding_window"] = window.clone();
        })
    };
    let longer = |window: Option<Value>| {
        with_config(&case("qwen2-tied"), |config| {
            config["layer_types"] = Value::Null;
            config["use_sliding_window"] = json!(true);
            config["max_position_embeddings"] = json!(4097);
            config.as_object_mut().unwrap().remove("sliding_window");
            if let Some(window) = &window {
                config["sliding_window"] = window.clone();
            }
        })
    };
    assert_says(&with_window(json!(true), json!(255)).refusal(), &["sliding-window"]);
    with_window(json!(true), json!(256)).load();
    with_window(json!(false), json!(255)).load();
    // Switched on and not named, it is 4096; null is none.
    assert_says(&longer(None).refusal(), &["sliding-window"]);
    longer(Some(Value::Null)).load();
    for (switch, window, expected) in [
        (json!("yes"), json!(255), "key use_sliding_window must be true or false"),
        (json!(1), json!(255), "key use_sliding_window must be true or false"),
        (json!(true), json!("wide"), "key sliding_window must be a number"),
    ] {
        assert_says(&with_window(switch, window).refusal(), &[expected, "config.json"]);
    }
}

#[test]
fn files_that_are_missing_or_foreign_are_named() {
    type Change = fn(&Folder);
    let table: [(&[&str], Change); 12] = [
        (&["model.safetensors: this is a pointer of Git LFS", "git lfs pull"], |folder| {
            folder.write("model.safetensors", LFS_POINTER);
        }),
        (&["tokenizer.json: this is a pointer of Git LFS", "git lfs pull"], |folder| {
            folder.write("tokenizer.json", LFS_POINTER);
        }),
        (&["config.json: this is a pointer of Git LFS", "git lfs pull"], |folder| {
            folder.write("config.json", LFS_POINTER);
        }),
        (&["no config.json", "give a GGUF file, or the folder"], |folder| {
            std::fs::remove_file(folder.path.join("config.json")).unwrap();
        }),
        (&["config.json", "not JSON"], |folder| folder.write("config.json", b"{")),
        (&["config.json", "not a JSON object"], |folder| folder.write("config.json", b"[1]")),
        (&["neither model.safetensors nor", "GGUF file"], |folder| {
            std::fs::remove_file(folder.path.join("model.safetensors")).unwrap();
        }),
        (&["tokenizer.json"], |folder| {
            std::fs::remove_file(folder.path.join("tokenizer.json")).unwrap();
        }),
        (&["model.safetensors", "empty"], |folder| folder.write("model.safetensors", b"")),
        (&["model.safetensors", "not a safetensors file"], |folder| {
            folder.write("model.safetensors", b"GGUF");
        }),
        (&["model.safetensors", "is the most"], |folder| {
            folder.write("model.safetensors", &[0xFF; 64]);
        }),
        (&["model.safetensors", "not a JSON object"], |folder| {
            folder.write("model.safetensors", &file_of("no header", b""));
        }),
    ];
    for (expected, change) in table {
        let folder = Folder::of(&case("llama-tied"), "F32");
        change(&folder);
        assert_says(&folder.refusal(), expected);
    }
}

#[test]
fn json_of_any_length_is_not_read() {
    let folder = Folder::of(&case("llama-tied"), "F32");
    let file = std::fs::File::create(folder.path.join("config.json")).unwrap();
    file.set_len(1 << 30).unwrap();
    assert_says(&folder.refusal(), &["config.json", "bytes of JSON"]);
}

#[test]
fn a_file_of_a_folder_leads_to_the_folder() {
    let folder = Folder::of(&case("llama-tied"), "F32");
    for name in ["config.json", "model.safetensors"] {
        assert_says(&refusal(&folder.path.join(name)), &[name, "give the path of the folder"]);
    }
}

#[test]
fn shards_that_do_not_fit_the_index_are_named() {
    const INDEX: &str = "model.safetensors.index.json";
    type Change = fn(&mut Value);
    let table: [(&[&str], Change); 6] = [
        (&[INDEX, "gone.safetensors is missing", "bring the whole folder"], |index| {
            index["weight_map"]["model.norm.weight"] = json!("gone.safetensors");
        }),
        (&["model-rest.safetensors", "tensor extra is missing"], |index| {
            index["weight_map"]["extra"] = json!("model-rest.safetensors");
        }),
        (&[INDEX, "outside the folder"], |index| {
            index["weight_map"]["model.norm.weight"] = json!("../model-rest.safetensors");
        }),
        (&[INDEX, "outside the folder"], |index| {
            index["weight_map"]["model.norm.weight"] = json!(7);
        }),
        (&[INDEX, "weight_map is missing"], |index| index["weight_map"] = Value::Null),
        (&[INDEX, "in 0 files"], |index| index["weight_map"] = json!({})),
    ];
    for (expected, change) in table {
        let folder = Folder::in_shards(&case("llama-tied"), "F32");
        let mut index: Value =
            serde_json::from_slice(&std::fs::read(folder.path.join(INDEX)).unwrap()).unwrap();
        change(&mut index);
        folder.write(INDEX, index.to_string().as_bytes());
        assert_says(&folder.refusal(), expected);
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let case = case("llama-tied");
    let folder = Folder::in_shards(&case, "F32");
    let mut layer = case.tensors();
    layer.retain(|tensor| {
        tensor.0.starts_with("model.layers.0.") || tensor.0 == "model.norm.weight"
    });
    folder.write("model-0.safetensors", &safetensors(&layer, "F32"));
    assert_says(&folder.refusal(), &["model.norm.weight is in another file too"]);
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Change = fn(&mut Vec<crate::case::NamedTensor>);
    let table: [(&str, Change); 6] = [
        ("tensor model.norm.weight is missing; the model is incomplete", |tensors| {
            tensors.remove(1);
        }),
        ("tensor model.embed_tokens.weight is [64, 264]", |tensors| tensors[0].1.reverse()),
        ("tensor model.norm.weight holds values that are not numbers", |tensors| {
            tensors[1].2[5] = f32::NAN;
        }),
        ("tensor model.layers.0.self_attn.q_proj.bias is not known", |tensors| {
            let name = "model.layers.0.self_attn.q_proj.bias";
            tensors.push((name.to_owned(), vec![64], vec![0.0; 64]));
        }),
        ("tensor model.layers.1.self_attn.q_norm.weight is not known", |tensors| {
            let name = "model.layers.1.self_attn.q_norm.weight";
            tensors.push((name.to_owned(), vec![16], vec![1.0; 16]));
        }),
        ("tensor score.weight is not known", |tensors| {
            tensors.push(("score.weight".to_owned(), vec![2], vec![0.0; 2]));
        }),
    ];
    for (expected, change) in table {
        let case = case("llama-tied");
        let mut tensors = case.tensors();
        change(&mut tensors);
        let folder = Folder::without_weights(&case.config);
        folder.write("model.safetensors", &safetensors(&tensors, "F32"));
        assert_says(&folder.refusal(), &[expected, "tiny-model"]);
    }
}

#[test]
fn an_untied_model_needs_its_output() {
    let folder = with_config(&case("llama-tied"), |config| {
        config["tie_word_embeddings"] = json!(false);
    });
    assert_says(&folder.refusal(), &["tensor lm_head.weight is missing"]);
}

#[test]
fn entries_that_lie_about_a_tensor_are_refused() {
    let entry = |dtype: Value, shape: Value, offsets: Value| json!({ "x": { "dtype": dtype, "shape": shape, "data_offsets": offsets } });
    let huge = u64::MAX;
    let table = [
        (entry(json!("F8_E4M3"), json!([4]), json!([0, 4])), "the type F8_E4M3"),
        (entry(Value::Null, json!([1]), json!([0, 4])), "tensor x has no type"),
        (entry(json!("F32"), json!([huge, huge]), json!([0, 4])), "tensor x of shape"),
        (entry(json!("F32"), json!([-1]), json!([0, 4])), "impossible shape"),
        (entry(json!("F32"), json!([1, 1, 1, 1, 1]), json!([0, 4])), "impossible shape"),
        (entry(json!("F32"), json!([2]), json!([0, 4])), "has 4 bytes"),
        (entry(json!("F32"), json!([1]), json!([4, 0])), "impossible place"),
        (entry(json!("F32"), json!([1]), json!([0])), "impossible place"),
        (entry(json!("F32"), json!([1]), json!([huge, huge])), "impossible place"),
        (entry(json!("F32"), json!([2]), json!([4, 12])), "does not lie inside"),
        (json!({ "x": 7 }), "has no type"),
    ];
    let case = case("llama-tied");
    for (header, expected) in table {
        let folder = Folder::without_weights(&case.config);
        folder.write("model.safetensors", &file_of(&header.to_string(), &[0; 8]));
        assert_says(&folder.refusal(), &[expected, "model.safetensors"]);
    }
}

#[test]
fn tensors_lie_one_behind_the_other_and_fill_the_file() {
    let entry = |name: &str, start: usize| {
        let end = start + 4;
        format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#)
    };
    let table: [(&[(&str, usize)], &str); 6] = [
        (&[("x", 0), ("x", 4)], "tensor x occurs twice"),
        (&[("x", 0), ("x", 0)], "tensor x occurs twice"),
        (&[("x", 0), ("y", 0)], "tensors x and y overlap"),
        (&[("x", 0), ("y", 2)], "tensors x and y overlap"),
        (&[("y", 4)], "4 unused bytes stand in front of tensor y"),
        (&[("x", 0)], "4 bytes follow its last tensor"),
    ];
    let case = case("llama-tied");
    let folder = Folder::without_weights(&case.config);
    for (entries, expected) in table {
        let entries: Vec<_> = entries.iter().map(|(name, start)| entry(name, *start)).collect();
        folder.write("model.safetensors", &file_of(&format!("{{{}}}", entries.join(",")), &[0; 8]));
        let message = folder.refusal().replace("y and x", "x and y");
        assert_says(&message, &[expected, "model.safetensors"]);
    }
    // In any order of their entries they are taken; only their names are wrong then.
    let fitting = format!("{{{},{}}}", entry("y", 4), entry("x", 0));
    folder.write("model.safetensors", &file_of(&fitting, &[0; 8]));
    assert_says(&folder.refusal(), &["is not known here"]);
}

#[test]
fn every_truncation_is_refused() {
    let case = case("qwen2-tied");
    let good = safetensors(&case.tensors(), "F16");
    let folder = Folder::without_weights(&case.config);
    let lengths = (0..3000).step_by(97).chain((3000..good.len()).step_by(good.len() / 40));
    for len in lengths.chain([good.len() - 1]) {
        folder.write("model.safetensors", &good[..len]);
        assert_says(&folder.refusal(), &["model.safetensors"]);
    }
}
