//! The models that are open in this process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use crate::error::ModelError;
use crate::model::{Identity, Model};
use crate::weights::Target;

static OPEN: LazyLock<Mutex<HashMap<Identity, Weak<Model>>>> = LazyLock::new(Mutex::default);

/// The model of this identity, opened unless somebody in this process has it open. It is closed
/// when nobody holds it any more.
///
/// # Errors
/// As [`Model::open`].
pub fn get(identity: Identity, target: Target) -> Result<Arc<Model>, ModelError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = open.get(&identity).and_then(Weak::upgrade) {
        return Ok(model);
    }
    let model = Arc::new(Model::open(identity.clone(), target)?);
    open.retain(|_, model| model.strong_count() > 0);
    open.insert(identity, Arc::downgrade(&model));
    Ok(model)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};
    use ches_udfs::ModelType;

    use super::*;

    #[test]
    fn a_model_is_open_once_and_as_long_as_somebody_holds_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families/qwen3/model");
        let open = |dtype: ModelType| {
            let identity = Identity::of(&path, "cpu", dtype).unwrap();
            let (device, dtype) = (Device::Cpu, DType::F32);
            get(identity, Target { device, dtype }).unwrap()
        };
        let first = open(ModelType::F32);
        let second = open(ModelType::F32);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &open(ModelType::Auto)));
        let closed = Arc::downgrade(&first);
        drop((first, second));
        assert!(closed.upgrade().is_none());
    }
}
