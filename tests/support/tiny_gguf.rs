//! GGUF files made on the spot: a whole llama model in a few kilobytes, and whatever else a
//! test wants to put into one.

// Each test program uses a part of this.
#![allow(dead_code)]

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    I32s(Vec<i32>),
    /// A type code and bytes, whatever they mean.
    Bytes(u32, Vec<u8>),
}

/// A tensor of f32, dimensions innermost first as the file has them.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub dimensions: Vec<u64>,
    pub values: Vec<f32>,
    /// Overrides of what the header says.
    pub dtype: u32,
    pub offset: Option<u64>,
}

/// A file before it is written.
#[derive(Debug, Clone)]
pub(crate) struct GgufFile {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub metadata_count: Option<u64>,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

impl GgufFile {
    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        let tensors = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let metadata = self.metadata_count.unwrap_or(self.metadata.len() as u64);
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut bytes, key);
            value.write(&mut bytes);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            string(&mut bytes, &tensor.name);
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            for dimension in &tensor.dimensions {
                bytes.extend(dimension.to_le_bytes());
            }
            bytes.extend(tensor.dtype.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            offset += (tensor.values.len() as u64 * 4).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
            for value in &tensor.values {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes
    }

    /// Sets, adds or (with `None`) removes a metadata entry.
    pub(crate) fn set(mut self, key: &str, value: Option<Value>) -> Self {
        let at = self.metadata.iter().position(|(found, _)| found == key);
        match (at, value) {
            (Some(at), Some(value)) => self.metadata[at].1 = value,
            (Some(at), None) => {
                self.metadata.remove(at);
            }
            (None, Some(value)) => self.metadata.push((key.into(), value)),
            (None, None) => panic!("there is no {key} to remove"),
        }
        self
    }

    /// Changes the tensor of that name.
    pub(crate) fn change(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        let tensor = self.tensors.iter_mut().find(|tensor| tensor.name == name);
        change(tensor.unwrap());
        self
    }
}

impl Value {
    fn write(&self, bytes: &mut Vec<u8>) {
        let mut put = |kind: u32, value: &[u8]| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        };
        match self {
            Self::U32(value) => put(4, &value.to_le_bytes()),
            Self::F32(value) => put(6, &value.to_le_bytes()),
            Self::Bool(value) => put(7, &[u8::from(*value)]),
            Self::String(value) => {
                put(8, &[]);
                string(bytes, value);
            }
            Self::Strings(values) => {
                put(9, &8u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| string(bytes, value));
            }
            Self::I32s(values) => {
                put(9, &5u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values
                    .iter()
                    .for_each(|value| bytes.extend(value.to_le_bytes()));
            }
            Self::Bytes(kind, value) => put(*kind, value),
        }
    }
}

/// A number of two bytes.
pub(crate) fn short(value: u16) -> Value {
    Value::Bytes(2, value.to_le_bytes().into())
}

/// A llama of one block, width 8 and two heads, with a vocabulary of letters.
pub(crate) fn tiny_llama() -> GgufFile {
    let mut tokens: Vec<String> = ["<|end|>", "Ġ", "Ċ", "ab"].map(String::from).into();
    tokens.extend(('a'..='z').chain('A'..='Z').map(String::from));
    let mut types = vec![1; tokens.len()];
    types[0] = 3;
    let vocabulary = tokens.len() as u64;
    let text = |text: &str| Value::String(text.into());
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", Value::U32(1)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.feed_forward_length", Value::U32(16)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", Value::Strings(tokens)),
        ("tokenizer.ggml.token_type", Value::I32s(types)),
        ("tokenizer.ggml.merges", Value::Strings(vec!["a b".into()])),
        ("tokenizer.ggml.eos_token_id", Value::U32(0)),
        ("tokenizer.ggml.bos_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
    ];
    let mut seed = 1u32;
    let mut tensor = |name: &str, dimensions: &[u64]| {
        let values = (0..dimensions.iter().product::<u64>()).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        Tensor {
            name: name.into(),
            dimensions: dimensions.to_vec(),
            values: values.collect(),
            dtype: 0,
            offset: None,
        }
    };
    let tensors = vec![
        tensor("token_embd.weight", &[8, vocabulary]),
        tensor("output_norm.weight", &[8]),
        tensor("blk.0.attn_norm.weight", &[8]),
        tensor("blk.0.attn_q.weight", &[8, 8]),
        tensor("blk.0.attn_k.weight", &[8, 4]),
        tensor("blk.0.attn_v.weight", &[8, 4]),
        tensor("blk.0.attn_output.weight", &[8, 8]),
        tensor("blk.0.ffn_norm.weight", &[8]),
        tensor("blk.0.ffn_gate.weight", &[8, 16]),
        tensor("blk.0.ffn_up.weight", &[8, 16]),
        tensor("blk.0.ffn_down.weight", &[16, 8]),
    ];
    GgufFile {
        magic: *b"GGUF",
        version: 3,
        tensor_count: None,
        metadata_count: None,
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
        tensors,
    }
}

/// The tiny llama in three files, as `gguf-split` makes them.
pub(crate) fn split_tiny_llama() -> [GgufFile; 3] {
    let whole = tiny_llama();
    let total = whole.tensors.len() as u32;
    [(0, 0..4), (1, 4..5), (2, 5..whole.tensors.len())].map(|(number, tensors)| {
        let mut shard = whole.clone();
        shard.tensors = whole.tensors[tensors].to_vec();
        if number > 0 {
            shard.metadata.clear();
        }
        shard
            .set("split.no", Some(short(number)))
            .set("split.count", Some(short(3)))
            .set("split.tensors.count", Some(Value::U32(total)))
    })
}

/// What the shards are called, from 1 on.
pub(crate) fn shard_name(number: usize) -> String {
    format!("tiny-{number:05}-of-00003.gguf")
}
