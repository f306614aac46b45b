//! Every convolution of the published VAE, by the shapes that flow through it.

use device::cudnn::ConvGraph;
use device::ops::conv::{Conv3d, Window};
use device::{Dtype, Tensor};

use super::planner;

/// Channels by block, from the pictures' side.
const BLOCKS: [usize; 4] = [128, 256, 256, 512];
const LATENT_CHANNELS: usize = 16;
/// Blocks that change the number of frames.
const TEMPORAL_LEVELS: usize = 2;
/// Latent frames of a video's first chunk and of all others.
const CHUNKS: [usize; 2] = [3, 2];

/// Frames, height and width.
type Size = [usize; 3];

/// The convolutions that a piece of a chunk goes through, each once, named by their first place.
pub(super) struct Walk {
    dtype: Dtype,
    size: Size,
    pub(super) convolutions: Vec<(String, ConvGraph)>,
}

impl Walk {
    /// From latents to pictures. Pieces keep their frames: doubled ones are pieces of their own.
    pub(super) fn decoder(dtype: Dtype, size: Size) -> Self {
        let mut walk = Self { dtype, size, convolutions: Vec::new() };
        let [_, latent_height, latent_width] = size;
        let mut channels = BLOCKS[3];
        walk.causal("conv_in", LATENT_CHANNELS, channels);
        walk.causal("mid", channels, channels);
        for (index, &out) in BLOCKS.iter().rev().enumerate() {
            walk.resnet(&format!("up {index}"), channels, out);
            channels = out;
            let [frames, height, width] = walk.size;
            for latent_frames in CHUNKS {
                // The norm's scale and shift from the latents.
                walk.size = [latent_frames, latent_height, latent_width];
                walk.add(&format!("up {index} norm"), LATENT_CHANNELS, 2 * out, [1; 3], [0; 3]);
            }
            walk.size = [frames, height, width];
            if index + 1 < BLOCKS.len() {
                // The upsampler itself reads an enlarged input, which is no work for the library.
                walk.size = [frames, 2 * height, 2 * width];
            }
        }
        walk.causal("conv_out", channels, 3);
        // Whole 16 bytes of channels, of which three are read.
        walk.causal("conv_out padded", channels, 8);
        walk
    }

    /// From pictures to latents' means and variances.
    pub(super) fn encoder(dtype: Dtype, size: Size) -> Self {
        let mut walk = Self { dtype, size, convolutions: Vec::new() };
        let mut channels = BLOCKS[0];
        walk.causal("conv_in", 3, channels);
        walk.causal("conv_in padded", 8, channels);
        for (index, &out) in BLOCKS.iter().enumerate() {
            walk.resnet(&format!("down {index}"), channels, out);
            channels = out;
            if index + 1 < BLOCKS.len() {
                walk.downsampler(&format!("down {index} downsampler"), out, index < TEMPORAL_LEVELS);
            }
        }
        walk.causal("conv_out", channels, 2 * LATENT_CHANNELS);
        walk
    }

    fn resnet(&mut self, name: &str, channels: usize, out: usize) {
        self.causal(name, channels, out);
        self.causal(name, out, out);
        if channels != out {
            self.add(&format!("{name} shortcut"), channels, out, [1; 3], [0; 3]);
        }
    }

    /// Two frames of the chunk before, or the first one twice, stand in front of the input.
    fn causal(&mut self, name: &str, channels: usize, out: usize) {
        let size = self.size;
        self.size[0] += 2;
        self.add(name, channels, out, [3; 3], [0, 1, 1]);
        self.size = size;
    }

    fn add(&mut self, name: &str, channels: usize, outs: usize, kernel: Size, [_, top, left]: Size) {
        let window = Window { padding: [[top; 2], [left; 2]], stride: 1, enlarged: false };
        self.convolve(name, [channels, outs], kernel, window);
    }

    fn downsampler(&mut self, name: &str, channels: usize, halves_frames: bool) {
        let [frames, height, width] = self.size;
        self.size[0] = if halves_frames { frames.div_ceil(2) } else { frames };
        self.convolve(name, [channels; 2], [1, 3, 3], Window::HALVING);
        self.size = [self.size[0], height / 2, width / 2];
    }

    /// What the operation asks the library for.
    fn convolve(&mut self, name: &str, [channels, outs]: [usize; 2], [kt, kh, kw]: Size, window: Window) {
        let device = planner();
        let tensor = |dims: &[usize]| Tensor::empty(&device, dims, self.dtype).expect("no memory is needed");
        let [frames, height, width] = self.size;
        let conv =
            Conv3d::new(tensor(&[outs, kt, kh, kw, channels]), Some(tensor(&[outs]))).expect("a filter");
        let graph = conv.graph(&tensor(&[frames, height, width, channels]), window).expect("an input");
        self.push(name, graph.expect("a graph for the library"));
    }

    fn push(&mut self, name: &str, graph: ConvGraph) {
        if self.convolutions.iter().all(|(_, known)| *known != graph) {
            let [_, channels, frames, height, width] = graph.input;
            let name = format!(
                "{name} {channels}->{} {frames}x{height}x{width} {}",
                graph.out_channels, graph.dtype
            );
            self.convolutions.push((name, graph));
        }
    }
}
