//! What devices are checked by, on this machine's.

use crate::suites::{Subject, assert_pass, attention, pressure};

#[test]
fn attention_is_what_its_definition_says() {
    // The processor's own attention is compared with it through the families.
    let subject = Subject::of_tests().pop().unwrap();
    assert_pass(attention::against_its_definition(&subject));
}

#[tokio::test(flavor = "multi_thread")]
async fn little_memory_dropped_queries_and_several_at_once() {
    for subject in Subject::of_tests() {
        let mut checks = vec![
            pressure::memory_limit(&subject).await,
            pressure::cancellation(&subject).await,
            pressure::at_once(&subject).await,
        ];
        checks.extend(pressure::out_of_memory(&subject).await);
        checks.extend(pressure::two_devices(&subject).await);
        assert_pass(checks);
    }
}
