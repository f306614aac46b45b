//! A natural-looking clip, drawn from a formula: a drifting sky, a ground with grain at several scales passing
//! under a panning camera, shaded and textured balls, and the soft noise of a sensor (or of a VAE).

use media::Frames;

/// What to draw.
#[derive(Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) count: u32,
    /// Standard deviation of the per-frame noise, in 8-bit steps.
    pub(crate) noise: f32,
}

impl Scene {
    pub(crate) fn frames(self) -> Frames {
        let texture = Texture::new();
        let (width, height) = (self.width as usize, self.height as usize);
        let mut rgb = Vec::with_capacity(width * height * 3 * self.count as usize);
        for t in 0..self.count {
            // One grain per 2x2 pixels' neighbourhood: averaging four draws halves the deviation.
            let grain = Grain::new(width + 1, height + 1, t);
            for y in 0..height {
                for x in 0..width {
                    let colour = self.colour(&texture, x as f32, y as f32, t as f32);
                    let noise = grain.at(x, y) * self.noise * 2.0;
                    rgb.extend(colour.map(|c| (c + noise).round().clamp(0.0, 255.0) as u8));
                }
            }
        }
        Frames::new(rgb, self.width, self.height, self.count).unwrap()
    }

    fn colour(self, texture: &Texture, x: f32, y: f32, t: f32) -> [f32; 3] {
        let (u, v) = (x / self.width as f32, y / self.height as f32);
        let horizon = 0.55 + 0.03 * (3.0 * u + 0.02 * t).sin();
        let cloud = texture.cloud(x + 1.3 * t, 2.0 * y);
        let sky = mix(
            mix([92.0, 140.0, 205.0], [212.0, 220.0, 226.0], (v / horizon).min(1.0)),
            [240.0; 3],
            0.5 * cloud,
        );
        let depth = ((v - horizon) / (1.0 - horizon)).max(0.0);
        let grain = texture.detail(x + 2.4 * t, y) * (0.4 + 0.6 * depth);
        let patch = texture.cloud(0.7 * x + 1.7 * t, 3.0 * y);
        let ground = mix([66.0, 92.0, 48.0], [150.0, 122.0, 82.0], patch).map(|c| c * (0.55 + 0.9 * grain));
        let mut colour = mix(sky, ground, edge((v - horizon) * self.height as f32));
        for (index, tint) in
            [[196.0, 60.0, 44.0], [228.0, 176.0, 60.0], [60.0, 84.0, 160.0]].iter().enumerate()
        {
            let phase = 2.1 * index as f32;
            let centre_u = 0.5 + 0.36 * (0.045 * t + phase).sin();
            let centre_v = 0.52 + 0.22 * (0.06 * t + 1.7 * phase).cos();
            let radius = 0.09 + 0.03 * index as f32;
            let aspect = self.width as f32 / self.height as f32;
            let (dx, dy) = ((u - centre_u) * aspect / radius, (v - centre_v) / radius);
            let distance = dx.hypot(dy);
            let cover = edge((1.0 - distance) * radius * self.height as f32);
            if cover > 0.0 {
                let light = 0.55 + 0.45 * (1.0 - ((dx + 0.4).hypot(dy + 0.45) / 1.6).min(1.0));
                let skin = 0.85 + 0.3 * texture.detail(90.0 * dx + 3.0 * t, 90.0 * dy);
                colour = mix(colour, tint.map(|c| c * light * skin), cover);
            }
        }
        colour
    }
}

/// How much of a shape covers a pixel that lies so many pixels inside its border: soft over two pixels, as a lens is.
fn edge(inside: f32) -> f32 {
    (inside / 2.0 + 0.5).clamp(0.0, 1.0)
}

fn mix(a: [f32; 3], b: [f32; 3], amount: f32) -> [f32; 3] {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * amount)
}

const TEXTURE_SIDE: usize = 256;

/// A tile of smooth random values in 0..1, read at sub-pixel positions.
struct Texture(Vec<f32>);

impl Texture {
    fn new() -> Self {
        Self((0..TEXTURE_SIDE * TEXTURE_SIDE).map(|i| unit(i as u32)).collect())
    }

    /// Smoothly interpolated value at a lattice position.
    fn value(&self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let smooth = |f: f32| f * f * (3.0 - 2.0 * f);
        let (fx, fy) = (smooth(x - x0), smooth(y - y0));
        let side = TEXTURE_SIDE as i64;
        let at = |dx: i64, dy: i64| {
            let column = (x0 as i64 + dx).rem_euclid(side) as usize;
            let row = (y0 as i64 + dy).rem_euclid(side) as usize;
            self.0[row * TEXTURE_SIDE + column]
        };
        let top = at(0, 0) + (at(1, 0) - at(0, 0)) * fx;
        let bottom = at(0, 1) + (at(1, 1) - at(0, 1)) * fx;
        top + (bottom - top) * fy
    }

    /// Several scales, each half as wide and `falloff` as strong as the one before; about 0..1.
    fn octaves(&self, x: f32, y: f32, cell: f32, falloff: f32) -> f32 {
        let (mut sum, mut total, mut weight, mut scale) = (0.0, 0.0, 1.0, 1.0 / cell);
        for octave in 0..4 {
            let shift = 37.0 * octave as f32;
            sum += weight * self.value(x * scale + shift, y * scale + shift);
            total += weight;
            weight *= falloff;
            scale *= 2.0;
        }
        sum / total
    }

    /// Broad shapes.
    fn cloud(&self, x: f32, y: f32) -> f32 {
        self.octaves(x, y, 160.0, 0.5)
    }

    /// Detail down to about three pixels, the finest that a VAE with 8x8 latents leaves.
    fn detail(&self, x: f32, y: f32) -> f32 {
        self.octaves(x, y, 24.0, 0.8)
    }
}

/// One frame's noise before softening.
struct Grain {
    stride: usize,
    values: Vec<f32>,
}

impl Grain {
    fn new(stride: usize, rows: usize, frame: u32) -> Self {
        let seed = frame.wrapping_mul(0x9e37_79b9);
        let gaussian = |i: u32| {
            // The sum of three uniforms, centred and scaled to unit deviation.
            (0..3).map(|k| unit(seed ^ i.wrapping_mul(3).wrapping_add(k))).sum::<f32>() * 2.0 - 3.0
        };
        Self { stride, values: (0..(stride * rows) as u32).map(gaussian).collect() }
    }

    fn at(&self, x: usize, y: usize) -> f32 {
        let i = y * self.stride + x;
        let v = &self.values;
        (v[i] + v[i + 1] + v[i + self.stride] + v[i + self.stride + 1]) / 4.0
    }
}

/// A well-mixed value in 0..1 for an index (the finalizer of `MurmurHash3`).
fn unit(index: u32) -> f32 {
    let mut h = index ^ 0x5bd1_e995;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    (h ^ (h >> 16)) as f32 / u32::MAX as f32
}
