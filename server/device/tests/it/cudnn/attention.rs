//! The transformers' attention, over queries, keys and values that lie in one tensor.

use device::cudnn::SdpaGraph;
use device::ops::attention::{Attention, Heads};
use device::{Dtype, Tensor};

use super::{Row, for_each_gpu, planner};

const HEAD_DIM: usize = 64;
const TEXT_TOKENS: usize = 226;

/// A published model at a published size.
struct Model {
    name: &'static str,
    heads: usize,
    dtype: Dtype,
    video_tokens: usize,
}

const MODELS: &[Model] = &[
    Model { name: "2B 720x480x49", heads: 30, dtype: Dtype::F16, video_tokens: 13 * 30 * 45 },
    Model { name: "5B 720x480x49", heads: 48, dtype: Dtype::Bf16, video_tokens: 13 * 30 * 45 },
    Model { name: "1.5-5B 1360x768x81", heads: 48, dtype: Dtype::Bf16, video_tokens: 11 * 48 * 85 },
    Model { name: "1.5-5B 1360x768x161", heads: 48, dtype: Dtype::Bf16, video_tokens: 21 * 48 * 85 },
];

impl Model {
    fn graph(&self, batch: usize) -> SdpaGraph {
        let seq = TEXT_TOKENS + self.video_tokens;
        let width = 3 * self.heads * HEAD_DIM;
        let qkv = Tensor::empty(&planner(), &[batch, seq, width], self.dtype).expect("no memory is needed");
        let [q, k, v] = Heads::of_qkv(&qkv).expect("three parts");
        let (heads, head_dim) = (self.heads, HEAD_DIM);
        let call = Attention { q, k, v, heads, head_dim, scale: 0.125, bias: None, score_bound: None };
        call.graph().expect("tensors that fit").expect("a graph for the library")
    }
}

#[test]
fn every_gpu_has_engines_for_every_models_attention() {
    for_each_gpu(|gpu, target| {
        for model in MODELS {
            for batch in [1, 2] {
                let what = format!("attention {} {}, batch {batch}", model.name, model.dtype);
                let engines =
                    model.graph(batch).engines(target).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(engines[0].graph_name(), "sdpa", "{}: {what}", gpu.arch);
                Row::new(engines, target, &what).print(gpu, &what);
            }
        }
    });
}

/// As in the self-test's cases: the heads of both sizes, lengths that no tile divides.
#[test]
fn every_gpu_has_engines_for_heads_of_64_and_128_at_odd_lengths() {
    for_each_gpu(|gpu, target| {
        for (head_dim, seq_q, seq_kv) in [(64, 261, 261), (64, 40, 300), (128, 19, 133)] {
            for dtype in [Dtype::F16, Dtype::Bf16] {
                let device = planner();
                let rows = |seq| Tensor::empty(&device, &[2, seq, 2 * head_dim + 8], dtype).unwrap();
                let (q, kv) = (rows(seq_q), rows(seq_kv));
                let [q, k, v] = [&q, &kv, &kv].map(|tensor| Heads { tensor, first: 8 });
                let call =
                    Attention { q, k, v, heads: 2, head_dim, scale: 0.5, bias: None, score_bound: None };
                let graph = call.graph().unwrap().expect("a graph for the library");
                let what = format!("attention {dtype}, {seq_q} x {seq_kv} of {head_dim}");
                Row::new(graph.engines(target).expect(&what), target, &what).print(gpu, &what);
                let plain = Attention { head_dim: head_dim / 4, ..call };
                assert_eq!(plain.graph().unwrap(), None, "{what}");
            }
        }
    });
}

#[test]
fn attention_in_nine_operations_is_fused_as_well() {
    for_each_gpu(|gpu, target| {
        for model in &MODELS[..2] {
            let what = format!("attention {} {}, nine operations", model.name, model.dtype);
            let engines =
                model.graph(1).composite_engines(target).unwrap_or_else(|error| panic!("{what}: {error}"));
            Row::new(engines, target, &what).print(gpu, &what);
        }
    });
}

#[test]
fn queries_of_a_part_attend_to_all_keys() {
    for_each_gpu(|gpu, target| {
        let whole = MODELS[1].graph(1);
        let part = SdpaGraph { seq_q: whole.seq_q / 4, ..whole };
        let what = "attention 5B, a quarter of the queries";
        Row::new(part.engines(target).unwrap(), target, what).print(gpu, what);
    });
}

#[test]
fn sizes_and_strides_that_kernels_would_fault_on_are_refused() {
    for_each_gpu(|_, target| {
        let whole = MODELS[1].graph(1);
        let refused = |graph: SdpaGraph| graph.engines(target).unwrap_err().to_string();
        let [batch, head, position, element] = whole.k_strides;
        let shifted = SdpaGraph { k_strides: [batch + 4, head, position + 4, element], ..whole.clone() };
        assert_eq!(
            refused(shifted),
            "sdpa: k: expected strides of whole 16 bytes, found [163823620, 64, 9220, 1]"
        );
        let transposed = SdpaGraph { v_strides: [batch, head, 1, position], ..whole.clone() };
        assert!(refused(transposed).starts_with("sdpa: v: expected an innermost stride of 1"));
        assert_eq!(
            refused(SdpaGraph { dtype: Dtype::F32, ..whole.clone() }),
            "sdpa: expected f16 or bf16, found f32"
        );
        assert!(refused(SdpaGraph { seq_kv: 0, ..whole }).starts_with("sdpa: expected sizes of at least 1"));
    });
}
