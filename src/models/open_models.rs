//! The models that are open in this process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Instant;

use crate::files::error::ModelError;
use crate::files::weights::Target;
use crate::models::model::{Identity, Model};

/// Each model has a lock of its own, so that opening one does not wait for another.
type Slot = Arc<Mutex<Weak<Model>>>;

static OPEN: LazyLock<Mutex<HashMap<Identity, Slot>>> = LazyLock::new(Mutex::default);

/// The model of this identity, opened unless somebody in this process has it open. It is closed
/// when no session holds it.
///
/// # Errors
/// As [`Model::open`].
pub(crate) fn get(identity: Identity, targets: Vec<Target>) -> Result<Arc<Model>, ModelError> {
    let slot = {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // A slot that somebody else holds is being opened, or just was.
        open.retain(|_, slot| {
            let is_held = Arc::strong_count(slot) > 1;
            is_held || slot.lock().is_ok_and(|model| model.strong_count() > 0)
        });
        Arc::clone(open.entry(identity.clone()).or_default())
    };
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = slot.upgrade() {
        return Ok(model);
    }
    let began = Instant::now();
    let model = Arc::new(Model::open(identity, targets)?);
    tracing::info!(
        "opened {}: fingerprint {}, {}, in {:.1} s",
        model.identity.path.display(),
        model.fingerprint(),
        model.dtype().as_str(),
        began.elapsed().as_secs_f64()
    );
    *slot = Arc::downgrade(&model);
    Ok(model)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device};
    use ches_udfs::ModelDtype;

    use super::*;

    #[test]
    fn a_model_is_open_once_and_as_long_as_somebody_holds_it() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families/qwen3/model");
        let open = |dtype: ModelDtype| {
            let identity = Identity::of(&path, "cpu", dtype).unwrap();
            let (device, dtype) = (Device::Cpu, DType::F32);
            get(identity, vec![Target::new(device, dtype)]).unwrap()
        };
        let first = open(ModelDtype::F32);
        let second = open(ModelDtype::F32);
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &open(ModelDtype::Auto)));
        let closed = Arc::downgrade(&first);
        drop((first, second));
        assert!(closed.upgrade().is_none());
    }
}
