//! A query that nobody waits for any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{example_data, model, session_with_pairs};
use datafusion_ches::{Ches, ModelScorer, Observer};

#[derive(Debug, Default)]
struct Counts {
    running: AtomicUsize,
    rows: AtomicUsize,
}

impl Observer for Counts {
    fn began(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
    }

    fn scored(&self, rows: usize, _tokens: usize) {
        self.rows.fetch_add(rows, Ordering::SeqCst);
    }

    fn ended(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_stops() {
    let counts = Arc::new(Counts::default());
    let scorer = Arc::new(ModelScorer::new().with_observer(Arc::clone(&counts) as _));
    let ches = Ches::new().with_scorer(scorer).with_model(model());
    let ctx = session_with_pairs(&ches, &example_data()).await;
    let frame = ctx
        .sql("SELECT ches(prompt, chosen, rejected) FROM pairs")
        .await
        .unwrap();
    let query = tokio::spawn(frame.collect());
    while counts.rows.load(Ordering::SeqCst) == 0 {
        assert!(!query.is_finished());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    query.abort();
    assert!(query.await.unwrap_err().is_cancelled());
    // What runs now is one batch; then nothing does.
    let mut rows = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = counts.rows.load(Ordering::SeqCst);
        if now == rows {
            break;
        }
        rows = now;
    }
    assert_eq!(counts.running.load(Ordering::SeqCst), 0);
    assert!(rows < 32, "all rows of the first call were scored");
}
