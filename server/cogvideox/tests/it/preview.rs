//! Previews against what the VAE decodes.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};
use cogvideox::noise::Generator;
use cogvideox::scheduler::SchedulerKind;
use cogvideox::vae::AutoencoderKlCogVideoX;
use cogvideox::{CogVideoXPipeline, Error, Event, GenerationParams};

use crate::golden::{FORMS, Golden};

fn load(form: &str, dtype: DType) -> CogVideoXPipeline {
    CogVideoXPipeline::load(&Golden::open(form).dir, dtype, &Device::Cpu).unwrap()
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Latent pixels of a side of [`mosaic`].
const SIDE: usize = 32;
/// Latent pixels of a side of its patches.
const PATCH: usize = 4;

/// Latents `(1, 1, 16, SIDE, SIDE)` of one frame, constant within each patch.
fn mosaic(seed: u64) -> Tensor {
    let patches = Generator::seed(seed).randn((1, 16, SIDE / PATCH, SIDE / PATCH), DType::F32).unwrap();
    patches.upsample_nearest2d(SIDE, SIDE).unwrap().unsqueeze(1).unwrap()
}

/// Mean bytes of each patch as the VAE decodes it, three planes.
fn decoded(form: &str, latents: &Tensor) -> Vec<f32> {
    let dir = Golden::open(form).dir.join("vae");
    let vae = AutoencoderKlCogVideoX::load(&dir, DType::F32, &Device::Cpu).unwrap();
    let z = (latents.transpose(1, 2).unwrap().contiguous().unwrap() / vae.config().scaling_factor).unwrap();
    let picture = vae.decode(&z, None, &mut |_| Ok(())).unwrap().squeeze(2).unwrap();
    let bytes = picture.affine(127.5, 127.5).unwrap().clamp(0.0, 255.0).unwrap();
    bytes.avg_pool2d(8 * PATCH).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Correlation of two series, and the squared error of the first as a share of that of the second's mean.
fn agreement(found: &[f64], expected: &[f64]) -> [f64; 2] {
    let mean = |series: &[f64]| series.iter().sum::<f64>() / series.len() as f64;
    let (mean_found, mean_expected) = (mean(found), mean(expected));
    let sum = |f: &dyn Fn(f64, f64) -> f64| found.iter().zip(expected).map(|(a, b)| f(*a, *b)).sum::<f64>();
    let covariance = sum(&|a, b| (a - mean_found) * (b - mean_expected));
    let spread_found = sum(&|a, _| (a - mean_found).powi(2));
    let spread = sum(&|_, b| (b - mean_expected).powi(2));
    [covariance / (spread_found * spread).sqrt(), sum(&|a, b| (a - b).powi(2)) / spread]
}

#[test]
fn a_preview_shows_what_the_vae_decodes() {
    // The goldens' VAEs have random weights and are far from linear: a constant picture has an error of 1, and the best
    // linear map one of about a half.
    let mut correlations = 0.0;
    for form in FORMS {
        let latents = mosaic(9);
        let preview = load(form, DType::F32).preview(&latents, &mut go_on).unwrap();
        let expected = decoded(form, &latents);
        let patches = SIDE / PATCH;
        let mut sums = [0.0; 2];
        for channel in 0..3 {
            let pixel = |patch: usize| patch / patches * PATCH * SIDE + patch % patches * PATCH;
            let found = |patch: usize| f64::from(preview.rgb[3 * pixel(patch) + channel]);
            let found: Vec<f64> = (0..patches * patches).map(found).collect();
            let expected = expected[channel * patches * patches..].iter().take(patches * patches);
            let expected: Vec<f64> = expected.map(|x| f64::from(*x)).collect();
            let [correlation, error] = agreement(&found, &expected);
            println!("{form} channel {channel}: correlation {correlation:.2}, error {error:.2}");
            sums = [sums[0] + correlation, sums[1] + error];
        }
        let [correlation, error] = sums.map(|sum| sum / 3.0);
        assert!(error < 0.85, "{form}: error {error}");
        correlations += correlation;
    }
    let correlation = correlations / FORMS.len() as f64;
    assert!(correlation > 0.6, "correlation {correlation}");
}

#[test]
fn a_preview_has_a_pixel_for_each_latent_pixel_of_the_middle_frame() {
    let pipeline = load("2b", DType::F32);
    let latents = Generator::seed(1).randn((1, 5, 16, 6, 10), DType::F32).unwrap();
    let preview = pipeline.preview(&latents, &mut go_on).unwrap();
    assert_eq!((preview.width, preview.height, preview.rgb.len()), (10, 6, 180));
    assert_eq!(pipeline.preview(&latents.narrow(1, 2, 1).unwrap(), &mut go_on).unwrap(), preview);
    assert_ne!(pipeline.preview(&latents.narrow(1, 1, 1).unwrap(), &mut go_on).unwrap(), preview);
    assert_eq!(
        load("2b", DType::F32).preview(&latents, &mut go_on).unwrap(),
        preview,
        "every fit is the same"
    );

    // A colour depends on its own latent pixel alone.
    let corner = latents.narrow(3, 5, 1).unwrap().narrow(4, 9, 1).unwrap();
    assert_eq!(pipeline.preview(&corner, &mut go_on).unwrap().rgb, preview.rgb[177..]);

    // A pipeline in half precision shows the same, within the rounding of its VAE.
    let half = load("2b", DType::BF16).preview(&latents.to_dtype(DType::BF16).unwrap(), &mut go_on).unwrap();
    let worst = half.rgb.iter().zip(&preview.rgb).map(|(a, b)| a.abs_diff(*b)).max();
    println!("bf16 differs by {worst:?}");
    assert!(worst.unwrap() <= 16);

    for foreign in [(1, 5, 8, 6, 10), (1, 0, 16, 6, 10)] {
        let foreign = Tensor::zeros(foreign, DType::F32, &Device::Cpu).unwrap();
        let error = pipeline.preview(&foreign, &mut go_on).unwrap_err();
        assert!(matches!(error, Error::InvalidParams { field: "latents", .. }), "{error}");
    }
}

#[test]
fn a_step_previews_the_clean_latents_it_predicts() {
    let pipeline = CogVideoXPipeline::demo(DType::F32, &Device::Cpu).unwrap();
    for scheduler in [SchedulerKind::Ddim, SchedulerKind::Dpm] {
        let params = GenerationParams {
            prompt: "A lake".to_owned(),
            negative_prompt: String::new(),
            image: None,
            height: 64,
            width: 96,
            num_frames: 17,
            num_inference_steps: 3,
            guidance_scale: 6.0,
            use_dynamic_cfg: false,
            scheduler,
            seed: 3,
            vae_tiling: false,
            initial_latents: None,
            lora: Vec::new(),
        };
        let mut seen = 0;
        let video = pipeline.generate(&params, None, &mut |event| {
            if let Event::StepEnd { step, steps, latents, state } = event {
                let preview = state.preview(&mut go_on).unwrap();
                assert_eq!((preview.width, preview.height), (12, 8));
                assert_eq!(preview, pipeline.preview(state.pred_original_sample(), &mut go_on).unwrap());
                // The last step leaves nothing but the prediction; the ones before it add noise.
                let of_latents = pipeline.preview(latents, &mut go_on).unwrap();
                assert_eq!(preview == of_latents, step == steps, "{scheduler} {step}");
                seen += 1;
            }
            ControlFlow::Continue(())
        });
        assert_eq!(seen, 3);
        assert_eq!(video.unwrap().num_frames, 17);
    }
}

#[test]
fn a_first_preview_can_be_broken_off_and_asked_for_again() {
    let pipeline = load("2b", DType::F32);
    let latents = Generator::seed(1).randn((1, 1, 16, 2, 2), DType::F32).unwrap();
    let mut asked = 0;
    let result = pipeline.preview(&latents, &mut || {
        asked += 1;
        if asked == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(asked, 3);
    let preview = pipeline.preview(&latents, &mut go_on).unwrap();
    // The map is there now: nothing long is done, and nothing asked.
    let again = pipeline.preview(&latents, &mut || panic!("asked"));
    assert_eq!(again.unwrap(), preview);
}
