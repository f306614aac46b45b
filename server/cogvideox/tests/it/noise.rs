//! Seeds mean what they mean in torch.

#![expect(clippy::unreadable_literal, reason = "numbers stand here as torch prints them")]

use candle_core::{DType, Tensor};
use cogvideox::Error;
use cogvideox::noise::Generator;

use crate::golden::{Golden, assert_close};

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn draws_are_torchs_draws() {
    let golden = Golden::open("2b");
    for n in [5, 16, 37, 256] {
        let found = Generator::seed(42).randn(n, DType::F32).unwrap();
        assert_close(&format!("f32 {n}"), &found, golden.get(&format!("rng.f32.seed42.n{n}")), 2.4e-7);
    }
    for (name, dtype) in [("f64", DType::F64), ("f16", DType::F16), ("bf16", DType::BF16)] {
        let found = Generator::seed(42).randn(64, dtype).unwrap();
        assert_close(name, &found, golden.get(&format!("rng.{name}.seed42.n64")), 0.0);
    }
}

#[test]
fn a_second_draw_continues_the_stream() {
    let golden = Golden::open("2b");
    let mut generator = Generator::seed(42);
    for key in ["rng.f32.seed42.first_of_two_n32", "rng.f32.seed42.second_of_two_n32"] {
        assert_close(key, &generator.randn(32, DType::F32).unwrap(), golden.get(key), 2.4e-7);
    }
}

/// `torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)`, torch 2.9.1.
const SEEDS: [(u64, [f64; 4]); 4] = [
    (0, [1.5409961082440433, -0.2934289057609464, -2.1787893820745574, 0.5684312772806678]),
    (4_294_967_301, [-0.48678075071242677, -0.6038215878840039, -0.5580962308236769, 0.6675243015344896]),
    (
        9_007_199_254_740_991,
        [1.219763015996571, -0.39297948372090163, 1.023075123518451, -0.3734211305047281],
    ),
    (2_147_483_648, [-0.36176917072367, 1.069952053882715, 0.09146209158393818, 0.4876456797300296]),
];

#[test]
fn a_large_seed_counts_by_its_low_32_bits() {
    for (seed, expected) in SEEDS {
        let found = values(&Generator::seed(seed).randn(4, DType::F64).unwrap());
        assert_eq!(found, expected, "seed {seed}");
    }
}

/// torch keeps the second number of a pair for the next short draw, and long draws in between leave it alone.
#[test]
fn an_odd_short_draw_keeps_its_second_number() {
    let whole = values(&Generator::seed(42).randn(8, DType::F64).unwrap());
    let mut generator = Generator::seed(42);
    let head = values(&generator.randn(5, DType::F64).unwrap());
    generator.randn(16, DType::F32).unwrap();
    let tail = values(&generator.randn(3, DType::F64).unwrap());
    assert_eq!(head, whole[..5]);
    assert_eq!(tail[0], whole[5]);
    // torch: manual_seed(42), randn(5), randn(16), randn(3), all but the 16 in float64.
    assert_eq!(tail, [-0.18632829929177447, -0.9889598811465726, 0.9579717939599753]);
}

/// `torch.randn(12, generator=torch.Generator().manual_seed(11), dtype=...)`.
#[test]
fn short_half_draws_are_rounded_from_double() {
    for (dtype, expected) in [
        (
            DType::F16,
            [
                0.73779296875,
                1.9462890625,
                -0.69970703125,
                -1.302734375,
                -0.51318359375,
                -0.26953125,
                0.2462158203125,
                0.48388671875,
                0.450439453125,
                -0.95703125,
                1.5009765625,
                -0.3134765625,
            ],
        ),
        (
            DType::BF16,
            [
                0.73828125,
                1.9453125,
                -0.69921875,
                -1.3046875,
                -0.51171875,
                -0.26953125,
                0.24609375,
                0.484375,
                0.451171875,
                -0.95703125,
                1.5,
                -0.314453125,
            ],
        ),
    ] {
        assert_eq!(values(&Generator::seed(11).randn(12, dtype).unwrap()), expected, "{dtype:?}");
    }
}

#[test]
fn shape_only_arranges_the_stream() {
    let flat = Generator::seed(7).randn(2 * 3 * 4 * 5, DType::F32).unwrap();
    let shaped = Generator::seed(7).randn((2, 3, 4, 5), DType::F32).unwrap();
    assert_eq!(shaped.dims(), [2, 3, 4, 5]);
    assert_eq!(values(&shaped.flatten_all().unwrap()), values(&flat));
}

#[test]
fn integer_noise_is_refused() {
    let refused = Generator::seed(0).randn(4, DType::U8);
    assert!(matches!(refused, Err(Error::UnsupportedDtype(_))), "{refused:?}");
}
