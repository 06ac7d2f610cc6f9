//! Object stores by URL.
//!
//! `datafusion-cli` brings S3, GCS and HTTP; this adds Azure, and data sets of the Hugging Face Hub. All take their account from the
//! usual environment variables.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion_ches::hub::DatasetStore;
use datafusion_cli::object_storage::instrumented::InstrumentedObjectStoreRegistry;
use object_store::ObjectStore;
use object_store::azure::MicrosoftAzureBuilder;
use url::Url;

const AZURE_SCHEMES: [&str; 5] = ["az", "azure", "abfs", "abfss", "adl"];

/// The stores of a session; those on Azure and on the Hub are opened when first asked for.
#[derive(Debug)]
pub(super) struct ObjectStores {
    opened: Arc<InstrumentedObjectStoreRegistry>,
}

impl ObjectStores {
    /// Adds Azure and the Hub to the stores that are opened already.
    pub(super) fn new(opened: Arc<InstrumentedObjectStoreRegistry>) -> Self {
        Self { opened }
    }
}

impl ObjectStoreRegistry for ObjectStores {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        self.opened.register_store(url, store)
    }

    fn deregister_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        self.opened.deregister_store(url)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match self.opened.get_store(url) {
            Err(_) if url.scheme() == "hf" && url.host_str() == Some("datasets") => {
                let store = DatasetStore::from_env();
                let store = store.map_err(|error| DataFusionError::External(Box::new(error)))?;
                self.opened.register_store(url, Arc::new(store));
                self.opened.get_store(url)
            }
            Err(_) if AZURE_SCHEMES.contains(&url.scheme()) => {
                let built = MicrosoftAzureBuilder::from_env()
                    .with_url(url.as_str())
                    .build();
                let store = built.map_err(|error| {
                    // The catalog only tells that there is no store, not why.
                    eprintln!(
                        "{}://{}: {error}",
                        url.scheme(),
                        url.host_str().unwrap_or_default()
                    );
                    DataFusionError::ObjectStore(Box::new(error))
                })?;
                self.opened.register_store(url, Arc::new(store));
                self.opened.get_store(url)
            }
            found => found,
        }
    }
}
