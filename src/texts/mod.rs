//! Texts. In come conversations and what files say of templates and tokenizers, out come sequences of token
//! ids, prompt and response told apart.

pub mod chat_template;
pub mod format;
mod gguf_pre_tokenizers;
pub mod gguf_tokenizer;
mod jinja;
pub mod sequence;
pub mod tokenizer;
