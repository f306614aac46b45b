//! The VAE's convolutions, chunk by chunk.

use device::Dtype;
use device::cudnn::{ConvGraph, Notes};

use super::vae::Walk;
use super::{Row, for_each_gpu};

/// Finds and plans each of them on each GPU.
fn check(coder: &str, walks: &[Walk]) {
    for_each_gpu(|gpu, target| {
        for (name, graph) in walks.iter().flat_map(|walk| &walk.convolutions) {
            let what = format!("{}: {coder} {name}", gpu.arch);
            let engines = graph.engines(target).unwrap_or_else(|error| panic!("{what}: {error}"));
            let compiled = engines[0].notes().intersects(Notes::COMPILED_AT_RUN_TIME);
            assert!(!compiled, "{what}: compiled at run time");
            Row::new(engines, target, &what).print(gpu, &format!("{coder} {name}"));
        }
    });
}

/// Frames of the pieces that chunks come in.
const PIECES: [usize; 2] = [2, 1];

#[test]
fn every_gpu_has_engines_for_the_decoder_in_bf16() {
    check("decoder", &PIECES.map(|frames| Walk::decoder(Dtype::Bf16, [frames, 60, 90])));
}

#[test]
fn every_gpu_has_engines_for_the_decoder_in_f16() {
    check("decoder", &PIECES.map(|frames| Walk::decoder(Dtype::F16, [frames, 60, 90])));
}

#[test]
fn every_gpu_has_engines_for_the_encoder_in_bf16() {
    check("encoder", &PIECES.map(|frames| Walk::encoder(Dtype::Bf16, [frames, 480, 720])));
}

#[test]
fn every_gpu_has_engines_for_the_encoder_in_f16() {
    check("encoder", &PIECES.map(|frames| Walk::encoder(Dtype::F16, [frames, 480, 720])));
}

#[test]
fn every_gpu_has_engines_for_the_largest_decoder() {
    check("decoder", &PIECES.map(|frames| Walk::decoder(Dtype::Bf16, [frames, 96, 170])));
}

#[test]
fn single_precision_is_never_tf32() {
    let mut graphs = Walk::decoder(Dtype::F32, [2, 60, 90]).convolutions;
    graphs.extend(Walk::encoder(Dtype::F32, [1, 480, 720]).convolutions);
    for_each_gpu(|gpu, target| {
        for (name, graph) in &graphs {
            let engines =
                graph.engines(target).unwrap_or_else(|error| panic!("{}: {name}: {error}", gpu.arch));
            let inexact = Notes::TENSOR_CORES.union(Notes::ROUNDED_INPUTS).union(Notes::ROUNDED_SUMS);
            assert!(engines.iter().all(|engine| !engine.notes().intersects(inexact)), "{}: {name}", gpu.arch);
            Row::new(engines, target, name).print(gpu, name);
        }
    });
}

#[test]
fn a_filter_larger_than_its_input_is_refused() {
    for_each_gpu(|_, target| {
        let graph = &Walk::decoder(Dtype::Bf16, [2, 60, 90]).convolutions[0].1;
        let short = ConvGraph { input: [1, 16, 2, 60, 90], ..graph.clone() };
        let error = short.engines(target).unwrap_err().to_string();
        assert_eq!(error, "conv: axis 0: filter of 3, stride of 1, 2 padded inputs");
    });
}
