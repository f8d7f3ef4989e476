//! The strategy without a pause: both serve until the old one's connections have gone over, one by one.

use handoff_tests::bins::{Build, Programs};
use handoff_tests::client::Client;
use handoff_tests::rig::{PATIENCE, Rig, Setup, wait_gone};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn rig() -> Rig {
    let programs = Programs::of(Build::Plain);
    Setup::new(programs).program(&programs.overlap_server).stateless().start()
}

fn connect(rig: &Rig) -> Client {
    let mut client = Client::connect(rig.addr.into()).expect("a connection");
    client.set_patience(PATIENCE).expect("a timeout");
    client
}

/// Who answers: the server's pid.
fn who(client: &mut Client) -> u64 {
    let answer = client.ask("PING").expect("an answer");
    let text = format!("{answer:?}");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("a pid was awaited: {text}"))
}

/// Idle, busy and new connections notice nothing of ten upgrades, and end at the newest server.
#[test]
fn connections_go_over_one_by_one_and_no_answer_is_missing() {
    let rig = rig();
    let mut idle: Vec<Client> = (0..20).map(|_| connect(&rig)).collect();
    for client in &mut idle {
        assert_eq!(who(client), u64::from(rig.server_pid()));
    }
    let (done, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for fresh in [false, false, true] {
            let (rig, done, answers) = (&rig, &done, &answers);
            scope.spawn(move || {
                let mut client = connect(rig);
                while !done.load(Ordering::Relaxed) {
                    if fresh {
                        client = connect(rig);
                    }
                    who(&mut client);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..10 {
            let old = rig.server_pid();
            let report = rig.upgrade_commits();
            assert_eq!(report["new"]["pid"].as_u64(), Some(u64::from(rig.server_pid())), "{report}");
            // it leaves as soon as its connections have gone over, not when its grace is over
            wait_gone(old);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answers.load(Ordering::Relaxed) > 100);
    for client in &mut idle {
        assert_eq!(who(client), u64::from(rig.server_pid()), "an idle connection has a new server");
    }
}

/// The control: a successor that reads another format of connections gets none, and they end by the protocol's goodbye.
#[test]
fn without_a_common_format_connections_get_the_goodbye() {
    let rig = rig();
    let mut client = connect(&rig);
    who(&mut client);
    let old = rig.server_pid();
    let mute = Programs::of(Build::Plain).named(&Programs::of(Build::Plain).overlap_server, "overlap-mute");
    rig.upgrade_to(&mute).expect_code(0);
    wait_gone(old);
    let goodbye = client.ask("PING");
    assert!(goodbye.is_err() || format!("{goodbye:?}").contains("leaves"), "{goodbye:?}");
    assert_eq!(who(&mut connect(&rig)), u64::from(rig.server_pid()));
}
