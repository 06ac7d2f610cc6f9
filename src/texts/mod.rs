//! Texts. In come conversations and what files say of templates and tokenizers, out come sequences of token
//! ids, prompt and response told apart.

pub(crate) mod chat_template;
pub(crate) mod format;
mod gguf_pre_tokenizers;
pub(crate) mod gguf_tokenizer;
mod jinja;
pub(crate) mod sequence;
pub(crate) mod tokenizer;
