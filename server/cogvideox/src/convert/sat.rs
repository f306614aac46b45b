//! SAT's names for the model's tensors, and what of each goes where in diffusers' layout.
//!
//! After `scripts/convert_cogvideox_to_diffusers.py` of diffusers. Knows names only.

/// Before the names of the transformer in a checkpoint of the whole training.
pub(super) const TRANSFORMER_PREFIX: &str = "model.diffusion_model.";

/// A tensor of diffusers' layout as a part of one of SAT's: of `of` equal parts of its rows, those in `parts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) parts: &'static [usize],
    pub(super) of: usize,
}

impl Part {
    fn whole(name: String) -> Vec<Self> {
        vec![Self { name, parts: &[0], of: 1 }]
    }
}

/// Where a tensor of the transformer goes, by its name without the prefix; nowhere for one that diffusers computes
/// itself, none for one that is not known.
pub(super) fn transformer(name: &str) -> Option<Vec<Part>> {
    if ["freqs_sin", "freqs_cos", "position_embedding", "embed_tokens"].iter().any(|part| name.contains(part))
    {
        return Some(Vec::new());
    }
    if let Some(rest) = name.strip_prefix("transformer.layers.") {
        let (block, rest) = rest.split_once('.')?;
        return block_part(&format!("transformer_blocks.{block}"), rest);
    }
    if let Some(rest) = name.strip_prefix("mixins.adaln_layer.") {
        return adaptive_part(rest);
    }
    let (layer, end) = name.rsplit_once('.')?;
    let layer = match layer {
        "mixins.patch_embed.proj" => "patch_embed.proj",
        "mixins.patch_embed.text_proj" => "patch_embed.text_proj",
        "time_embed.0" => "time_embedding.linear_1",
        "time_embed.2" => "time_embedding.linear_2",
        "ofs_embed.0" => "ofs_embedding.linear_1",
        "ofs_embed.2" => "ofs_embedding.linear_2",
        "transformer.final_layernorm" => "norm_final",
        "mixins.final_layer.norm_final" => "norm_out.norm",
        "mixins.final_layer.adaLN_modulation.1" => "norm_out.linear",
        "mixins.final_layer.linear" => "proj_out",
        "mixins.pos_embed" => return Some(Part::whole(format!("patch_embed.{end}"))),
        _ => return None,
    };
    Some(Part::whole(format!("{layer}.{end}")))
}

fn block_part(block: &str, name: &str) -> Option<Vec<Part>> {
    let (layer, end) = name.rsplit_once('.')?;
    let layer = match layer {
        "input_layernorm" => "norm1.norm",
        "post_attention_layernorm" => "norm2.norm",
        "attention.dense" => "attn1.to_out.0",
        "mlp.dense_h_to_4h" => "ff.net.0.proj",
        "mlp.dense_4h_to_h" => "ff.net.2",
        "attention.query_key_value" => {
            let part =
                |layer: &str, parts| Part { name: format!("{block}.attn1.{layer}.{end}"), parts, of: 3 };
            return Some(vec![part("to_q", &[0]), part("to_k", &[1]), part("to_v", &[2])]);
        }
        _ => return None,
    };
    Some(Part::whole(format!("{block}.{layer}.{end}")))
}

fn adaptive_part(name: &str) -> Option<Vec<Part>> {
    let (kind, rest) = name.split_once('.')?;
    let (index, end) = rest.split_once('.')?;
    let block = format!("transformer_blocks.{index}");
    match kind {
        "query_layernorm_list" => Some(Part::whole(format!("{block}.attn1.norm_q.{end}"))),
        "key_layernorm_list" => Some(Part::whole(format!("{block}.attn1.norm_k.{end}"))),
        "adaLN_modulations" => {
            // Shift, scale, gate of the video before attention and before the feed-forward, then those of the text.
            let end = end.strip_prefix("1.")?;
            let part = |norm, parts| Part { name: format!("{block}.{norm}.linear.{end}"), parts, of: 12 };
            Some(vec![part("norm1", &[0, 1, 2, 6, 7, 8]), part("norm2", &[3, 4, 5, 9, 10, 11])])
        }
        _ => None,
    }
}

/// Where a tensor of the VAE with so many levels goes; as [`transformer`].
pub(super) fn vae(name: &str, levels: usize) -> Option<Vec<Part>> {
    if name.starts_with("loss") {
        return Some(Vec::new());
    }
    let (side, rest) = name.split_once('.')?;
    if !matches!(side, "encoder" | "decoder") {
        return None;
    }
    let rest = match rest.split_once('.')? {
        ("mid", rest) => {
            let (block, rest) = rest.split_once('.')?;
            let index = block.strip_prefix("block_")?.parse::<usize>().ok()?.checked_sub(1)?;
            format!("mid_block.resnets.{index}.{rest}")
        }
        (way @ ("down" | "up"), rest) => {
            let (level, rest) = rest.split_once('.')?;
            let level = level.parse::<usize>().ok()?;
            // diffusers counts the decoder's levels in the order of computing.
            let level = if way == "up" { levels.checked_sub(1)?.checked_sub(level)? } else { level };
            let rest = match rest.split_once('.')? {
                ("block", rest) => format!("resnets.{rest}"),
                ("downsample", rest) => format!("downsamplers.0.{rest}"),
                ("upsample", rest) => format!("upsamplers.0.{rest}"),
                _ => return None,
            };
            format!("{way}_blocks.{level}.{rest}")
        }
        ("conv_in" | "conv_out" | "norm_out", _) => rest.to_owned(),
        _ => return None,
    };
    Some(Part::whole(format!("{side}.{rest}").replace(".nin_shortcut.", ".conv_shortcut.")))
}
