//! Reads a golden folder and compares with it.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};

/// The forms in `f32`.
pub(crate) const FORMS: [&str; 5] = ["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"];

/// One golden folder.
pub(crate) struct Golden {
    pub(crate) dir: PathBuf,
    pub(crate) json: serde_json::Value,
    pub(crate) dtype: DType,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn open(form: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(form);
        // Python writes infinities as bare words, which JSON does not know.
        let text = std::fs::read_to_string(dir.join("golden.json")).unwrap();
        let text =
            text.replace("-Infinity", "\"-inf\"").replace("Infinity", "\"inf\"").replace("NaN", "\"nan\"");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let dtype = match json["dtype"].as_str().unwrap() {
            "fp32" => DType::F32,
            "fp16" => DType::F16,
            "bf16" => DType::BF16,
            other => panic!("unknown dtype {other}"),
        };
        let tensors = candle_core::safetensors::load(dir.join("golden.safetensors"), &Device::Cpu).unwrap();
        Self { dir, json, dtype, tensors }
    }

    pub(crate) fn get(&self, key: &str) -> &Tensor {
        self.tensors.get(key).unwrap_or_else(|| panic!("{} has no {key}", self.dir.display()))
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }
}

/// A number of `golden.json`, infinities included.
pub(crate) fn number(value: &serde_json::Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn flat(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts equal shapes and a greatest absolute difference of at most `bound`.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shape");
    let worst = flat(found).iter().zip(flat(expected)).map(|(a, b)| (a - b).abs()).fold(0.0, nan_max);
    println!("{what}: {worst:.2e}");
    assert!(worst <= bound, "{what}: differs by {worst:e}, allowed {bound:e}");
}

/// Asserts equal shapes and a relative L2 difference of at most `bound`.
#[track_caller]
pub(crate) fn assert_relative(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shape");
    let (found, expected) = (flat(found), flat(expected));
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(&expected).map(|(a, b)| square(a - b)).sum();
    let relative = (difference / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
    println!("{what}: {:.3} %", relative * 100.0);
    assert!(relative <= bound, "{what}: differs by {relative:e} (relative L2), allowed {bound:e}");
}

/// `f64::max` passes over NaN, which must not count as close.
fn nan_max(a: f64, b: f64) -> f64 {
    if b.is_nan() { f64::INFINITY } else { a.max(b) }
}
