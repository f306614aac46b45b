//! Operations say what does not fit them before anything is launched.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use device::ops::epilogue::{Activation, Scales, scale_rows_columns};
use device::ops::norm::{Norm, ShiftScale, Streams, modulated};
use device::ops::patch::{Patch, PatchGrid, join, patchify, unpatchify, video_part};
use device::ops::quantize::rows_to_8bit;
use device::ops::{elementwise, t5};
use device::{Capability, Device, Dtype, Error, Settings, Tensor};

fn zeros(dims: &[usize], dtype: Dtype) -> Tensor {
    // One device for all: tensors of two do not meet.
    thread_local! {
        static DEVICE: Device = Device::planner(Capability { major: 8, minor: 0 }, 1 << 30, Settings::default());
    }
    DEVICE.with(|device| Tensor::zeros(device, dims, dtype)).unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error:?}");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn norms_name_the_tensor_that_does_not_fit() {
    let (x, weight, table) =
        (zeros(&[2, 5, 8], Dtype::F16), zeros(&[7], Dtype::F16), zeros(&[1, 48], Dtype::F16));
    let (fits, bare) = (Streams { tokens: 5, text_len: 2 }, Norm { weight: None, bias: None, eps: 1e-5 });
    let chunks = |shift| ShiftScale { table: &table, shift, scale: [1, 4] };
    refused(
        modulated(&x, &Norm { weight: Some(&weight), ..bare }, &chunks([0, 3]), fits),
        "modulated: weight: expected f16 [8], found f16 [7]",
    );
    refused(
        modulated(&x, &bare, &chunks([0, 6]), fits),
        "modulated: shift: chunk 6 of 8 is beyond a table of 48",
    );
    refused(
        modulated(&x, &bare, &chunks([0, 3]), Streams { tokens: 4, ..fits }),
        "modulated: 10 rows are not sequences of 4 tokens, 2 of them text",
    );
    modulated(&x, &bare, &chunks([0, 3]), fits).unwrap();
}

#[test]
fn latents_divide_into_patches() {
    let patch = Patch { frames: 2, size: 2 };
    refused(
        patchify(&zeros(&[1, 3, 4, 6, 6], Dtype::F32), patch),
        "patchify: 3 x 6 x 6 latents do not divide into Patch { frames: 2, size: 2 }",
    );
    let grid = PatchGrid { frames: 1, rows: 3, columns: 3 };
    assert!(unpatchify(&zeros(&[1, 8, 32], Dtype::F32), grid, patch).is_err());
    assert!(unpatchify(&zeros(&[1, 9, 31], Dtype::F32), grid, patch).is_err());
    assert_eq!(unpatchify(&zeros(&[1, 9, 32], Dtype::F32), grid, patch).unwrap().dims(), [1, 2, 4, 6, 6]);
}

#[test]
fn sequences_are_of_one_width() {
    let (text, video) = (zeros(&[2, 3, 8], Dtype::Bf16), zeros(&[2, 4, 9], Dtype::Bf16));
    refused(join(&text, &video, None), "join: video: expected bf16 [2, 4, 8], found bf16 [2, 4, 9]");
    refused(video_part(&text, 4), "video_part: 4 text tokens of 3");
}

#[test]
fn ids_are_of_the_vocabulary() {
    let table = zeros(&[11, 8], Dtype::F16);
    refused(t5::embedding(&table, &[3, 11]), "embedding: id 11 of a vocabulary of 11");
    assert_eq!(t5::embedding(&table, &[3, 10]).unwrap().dims(), [2, 8]);
}

#[test]
fn formats_that_do_not_meet_are_refused() {
    let (half, brain, ints) = (zeros(&[4], Dtype::F16), zeros(&[4], Dtype::Bf16), zeros(&[2, 4], Dtype::I32));
    refused(elementwise::promoting_add(&half, &brain), "promoting_add: no sum of f16 and bf16");
    refused(elementwise::cast(&ints, Dtype::F32), "cast: expected f32, f16 or bf16, found i32 to f32");
    refused(rows_to_8bit(&half, Dtype::U8), "rows_to_8bit: expected i8 or f8e4m3, found u8");
    let (rows, columns) = (zeros(&[2], Dtype::F32), zeros(&[3], Dtype::F32));
    refused(
        scale_rows_columns(
            &ints,
            Scales { rows: &rows, columns: &columns },
            None,
            Activation::Identity,
            Dtype::F16,
        ),
        "scale_rows_columns: column scales: expected f32 [4], found f32 [3]",
    );
}
