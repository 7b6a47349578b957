//! The generator against the stand-in broker: honest, it passes; at fault, that is noticed.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use crate::drain;
use crate::group_log::{GroupLog, Level};
use crate::options::Scenario;
use crate::report::Report;
use crate::sink::{Fault, serve};
use crate::trickle;

/// A scenario against a sink that goes wrong in this way.
fn against(fault: Fault, scenario: &str) -> Scenario {
    with_log(fault, None, scenario)
}

fn with_log(fault: Fault, log: Option<Arc<GroupLog>>, scenario: &str) -> Scenario {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || serve(&listener, fault, log));
    let text = format!("port = {port}\nstall_s = 1\n{scenario}");
    let scenario: Scenario = toml::from_str(&text).unwrap();
    scenario.checked().unwrap()
}

fn run(fault: Fault, scenario: &str) -> Report {
    crate::run::run(&against(fault, scenario)).unwrap()
}

#[test]
fn every_shape_passes_against_an_honest_broker() {
    for scenario in [
        "messages = 20000",
        "messages = 3000\nsize = 1024\npersistent = true\nconfirm_window = 100\nack = \"each\"\nprefetch = 50",
        "messages = 3001\npublishers = 4\nqueues = 2\nconsumers = 2\nack = \"multiple:10\"",
        "messages = 5000\npublishers = 2\nconsumers = 3",
        "messages = 2000\nexchange = \"fanout\"\nqueues = 3\nconsumers = 3\nconfirm_window = 1",
        "messages = 2003\nexchange = \"topic\"\nqueues = 2\nconsumers = 2\nbindings = 20",
        "messages = 2003\nexchange = \"headers\"\nqueues = 2\nconsumers = 2",
        "messages = 2003\nexchange = \"direct\"\nqueues = 2\nconsumers = 4",
        "messages = 2003\nqueues = 20\npublishers = 4\nconsumers = 3",
        "messages = 2003\nqueues = 30",
        "messages = 2003\nqueues = 6\nexchange = \"topic\"\nbindings = 60\nkeys = 12\nconsumers = 4",
        "messages = 2003\nexchange = \"topic\"\nbindings = 1\nkeys = 100",
        "messages = 2003\nmarked = true\nidle_connections = 3",
        "messages = 20\nsize = 1048576",
        "messages = 500\nconsumers = 0",
        "duration_s = 0.2",
        "duration_s = 0.2\nrate = 1000\nconfirm_window = 10",
    ] {
        let report = run(Fault::None, scenario);
        assert!(report.ok, "{scenario}: {}", report.summary());
        assert!(report.published > 0 && report.published_per_s > 0.0);
    }
}

#[test]
fn a_paced_run_reports_latencies_and_keeps_the_pace() {
    let report = run(
        Fault::None,
        "messages = 200\nrate = 1000\nconfirm_window = 5",
    );
    assert!(report.ok, "{}", report.summary());
    assert_eq!(report.latency_us.as_ref().map(|p| p.count), Some(200));
    let from_due = report.latency_from_due_us.unwrap();
    assert_eq!(from_due.count, 200);
    // What is due is written later; histograms keep three digits.
    assert!(from_due.p50 >= 0.99 * report.latency_us.unwrap().p50);
    assert_eq!(report.confirm_us.map(|p| p.count), Some(200));
    assert!(
        report.publish_seconds >= 0.199,
        "{}",
        report.publish_seconds
    );
}

#[test]
fn every_fault_is_noticed() {
    let faults = |fault| {
        let report = run(fault, "messages = 3000\nsize = 24");
        assert!(!report.ok && !report.problems.is_empty());
        report
    };
    assert_eq!(faults(Fault::Drop).faults.lost, 1);
    assert_eq!(faults(Fault::Double).faults.doubled, 1);
    assert_eq!(faults(Fault::Swap).faults.out_of_order, 1);
    assert!(faults(Fault::Damage).faults.corrupt > 0);
    assert!(faults(Fault::Close).problems[0].starts_with("publisher 0"));
}

#[test]
fn faults_on_queues_that_one_consumer_reads_are_noticed() {
    // The sink goes wrong once a queue.
    let text = "messages = 6000\nqueues = 4\nconsumers = 2";
    assert_eq!(run(Fault::Drop, text).faults.lost, 4);
    assert_eq!(run(Fault::Double, text).faults.doubled, 4);
}

#[test]
fn lapin_passes_against_an_honest_broker_and_notices_faults() {
    for scenario in [
        "messages = 500",
        "messages = 500\npublishers = 3\nqueues = 2\nconsumers = 2\nack = \"each\"",
        "messages = 500\nsize = 1024\npersistent = true\nconfirm_window = 20\nack = \"multiple:10\"\nprefetch = 50",
    ] {
        let report = run(Fault::None, &format!("client = \"lapin\"\n{scenario}"));
        assert!(report.ok, "{scenario}: {}", report.summary());
        assert_eq!((report.published, report.delivered), (500, 500));
    }
    let lapin = "client = \"lapin\"\nmessages = 3000\nsize = 24";
    assert_eq!(run(Fault::Drop, lapin).faults.lost, 1);
    assert_eq!(run(Fault::Double, lapin).faults.doubled, 1);
    assert_eq!(run(Fault::Swap, lapin).faults.out_of_order, 1);
}

#[test]
fn a_trickle_counts_what_every_connection_gets() {
    let trickle = |fault, connections, messages: f64| {
        let scenario = against(fault, "");
        let rate = 10_000.0;
        trickle::measure(&scenario, connections, rate, messages / rate).unwrap()
    };
    let result = trickle(Fault::None, 7, 500.0);
    assert!(result.ok, "{:?}", result.faults);
    assert_eq!(result.messages, 500);
    assert_eq!(result.latency_from_due_us.map(|p| p.count), Some(500));
    let result = trickle(Fault::Swap, 2, 3_000.0);
    assert!(!result.ok && result.faults.out_of_order > 0);
}

#[test]
fn confirms_that_wait_for_the_log_all_come() {
    let folder = std::env::temp_dir().join(format!("backbone-perf-sink-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    for level in [Level::Synced, Level::Written] {
        let log = GroupLog::start(&folder, level).unwrap();
        for text in [
            "messages = 20000\nconfirm_window = 1000",
            "messages = 50\nconfirm_window = 1",
            "messages = 30\nsize = 1048576\nconfirm_window = 20",
            "messages = 3000\npublishers = 3\nqueues = 3\nconsumers = 3\nconfirm_window = 10",
        ] {
            let scenario = with_log(Fault::None, Some(Arc::clone(&log)), text);
            let report = crate::run::run(&scenario).unwrap();
            assert!(report.ok, "{text}: {}", report.summary());
            assert_eq!(report.confirm_us.map(|p| p.count), Some(report.published));
        }
    }
    assert!(std::fs::metadata(folder.join("sink.log")).unwrap().len() > 0);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn consumers_that_rest_take_all_in_the_end() {
    let report = run(
        Fault::None,
        "duration_s = 0.5\nrate = 1000\nrest_s = 0.1\nack = \"each\"",
    );
    assert!(report.ok, "{}", report.summary());
    // Held back for up to a rest.
    assert!(report.latency_us.unwrap().max > 50_000.0);
}

#[test]
fn a_backlog_that_is_not_there_is_no_drain() {
    let scenario = against(Fault::None, "messages = 5\nprefix = \"none\"");
    assert!(drain::measure(&scenario).is_err());
}
