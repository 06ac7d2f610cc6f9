//! Models of random weights, made on the spot, in the shapes of real ones.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::bf16;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::Fallible;

/// The widths of a model of the llama family.
pub(crate) struct Shape {
    pub name: &'static str,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    pub vocab: usize,
    is_tied: bool,
}

pub(crate) const SHAPES: [Shape; 3] = [
    Shape {
        name: "llama-3-8b",
        hidden: 4096,
        inner: 14_336,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        vocab: 128_256,
        is_tied: false,
    },
    Shape {
        name: "smollm2-135m",
        hidden: 576,
        inner: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
        vocab: 49_152,
        is_tied: true,
    },
    Shape {
        name: "tiny",
        hidden: 128,
        inner: 256,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        vocab: 1000,
        is_tied: true,
    },
];

impl Shape {
    fn head_dim(&self) -> usize {
        self.hidden / self.heads
    }

    /// Matrices of one block, `(name, out, in)`.
    fn matrices(&self) -> [(&'static str, usize, usize); 7] {
        let (d, kv) = (self.hidden, self.kv_heads * self.head_dim());
        [
            ("self_attn.q_proj", d, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, d),
            ("mlp.gate_proj", self.inner, d),
            ("mlp.up_proj", self.inner, d),
            ("mlp.down_proj", d, self.inner),
        ]
    }

    /// Multiplications and additions of the linear layers, for each token. What the last block computes is less,
    /// since only what is read of it goes through its MLP: by about one in a hundred of all with 32 blocks.
    pub(crate) fn operations(&self) -> f64 {
        let of_block: usize = self
            .matrices()
            .iter()
            .map(|(_, out, inner)| out * inner)
            .sum();
        2.0 * (of_block * self.layers) as f64
    }

    /// Numbers of all tensors.
    pub(crate) fn parameters(&self) -> usize {
        let tensors = self.tensors();
        tensors
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// Name and shape of every tensor.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            (
                "model.embed_tokens.weight".into(),
                vec![self.vocab, self.hidden],
            ),
            ("model.norm.weight".into(), vec![self.hidden]),
        ];
        if !self.is_tied {
            tensors.push(("lm_head.weight".into(), vec![self.vocab, self.hidden]));
        }
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let matrices = self.matrices();
            tensors.extend(matrices.map(|(part, out, inner)| (name(part), vec![out, inner])));
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push((name(norm), vec![self.hidden]));
            }
        }
        tensors
    }

    pub(crate) fn write(&self, folder: &Path) -> Fallible<()> {
        std::fs::create_dir_all(folder)?;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "tie_word_embeddings": self.is_tied, "bos_token_id": 0, "eos_token_id": 1,
            "attention_bias": false, "mlp_bias": false, "torch_dtype": "bfloat16"
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let vocab: Map<String, Value> = (0..self.vocab).map(|id| (word(id), json!(id))).collect();
        let added_tokens = [0, 1].map(|id| {
            json!({
                "id": id, "content": word(id), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true
            })
        });
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "added_tokens": added_tokens,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": word(2)}
        });
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
        let tokenizer_config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": false,
            "bos_token": word(0), "eos_token": word(1)
        });
        std::fs::write(
            folder.join("tokenizer_config.json"),
            tokenizer_config.to_string(),
        )?;
        self.write_weights(&folder.join("model.safetensors"))
    }

    fn write_weights(&self, file: &Path) -> Fallible<()> {
        let tensors = self.tensors();
        let mut header = Map::from_iter([("__metadata__".into(), json!({"format": "pt"}))]);
        let mut offset = 0;
        for (name, shape) in &tensors {
            let bytes = 2 * shape.iter().product::<usize>();
            let entry =
                json!({"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + bytes]});
            header.insert(name.clone(), entry);
            offset += bytes;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = BufWriter::new(File::create(file)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (number, (_, shape)) in tensors.iter().enumerate() {
            let count: usize = shape.iter().product();
            let is_norm = shape.len() == 1;
            let mut values = vec![0_u8; 2 * count];
            values
                .par_chunks_mut(2)
                .enumerate()
                .for_each(|(at, bytes)| {
                    let value = if is_norm {
                        1.0
                    } else {
                        0.06 * noise(number, at)
                    };
                    bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes());
                });
            out.write_all(&values)?;
        }
        Ok(out.flush()?)
    }
}

/// A word of the vocabulary.
pub(crate) fn word(id: usize) -> String {
    format!("w{id}")
}

/// A number from −1 to 1 (splitmix64 of its place).
pub(crate) fn noise(tensor: usize, at: usize) -> f32 {
    let mut z = ((tensor as u64) << 40 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
}
