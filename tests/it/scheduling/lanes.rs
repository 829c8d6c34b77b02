//! What still answers when lanes are full.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use mistify_libvirt::ops::Libvirt;
use mistify_libvirt::os::peer::Share;
use mistify_libvirt::pool::{CallClass, CallShare, Job, JobName, Lane};

use crate::harness::agent::Reply;
use crate::harness::in_process::InProcess;
use crate::harness::support::{Scratch, wait_for, wait_until};

/// Longer than a loaded machine needs for what takes milliseconds.
const SOON: Duration = Duration::from_secs(60);
/// Longer than the whole test: the lanes stay full until the test frees them.
const PATIENCE: Duration = Duration::from_secs(600);

/// More than the lanes of changes have workers.
const CALLERS: usize = 24;

/// Callers that are blocked on these lanes until the sender is dropped.
fn fill(
    agent: &Arc<Libvirt>,
    lanes: [Lane; 2],
    release: &Receiver<()>,
) -> Vec<thread::JoinHandle<()>> {
    (0..CALLERS)
        .map(|index| {
            let (agent, release) = (Arc::clone(agent), release.clone());
            let lane = lanes[index % 2];
            thread::spawn(move || {
                let job = Job {
                    name: JobName::new("slow", index.to_string()),
                    deadline: Instant::now() + PATIENCE,
                };
                let outcome = agent.core.pool().run(lane, job, None, move |_| {
                    // Ends when the test drops the other side.
                    let _ = release.recv();
                });
                assert!(outcome.is_ok(), "{outcome:?}");
            })
        })
        .collect()
}

fn exchange(address: SocketAddr, request: &str) -> (Duration, Reply) {
    let mut stream = TcpStream::connect(address).expect("the front takes connections");
    let began = Instant::now();
    stream.write_all(request.as_bytes()).expect("the front reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the front answers");
    (began.elapsed(), Reply::parse(&bytes))
}

fn call(method: &str, id: &str) -> String {
    let body = format!(
        r#"{{"method":"Libvirt.{method}","params":[{{"guest":{{"id":"{id}","type":"test","memory":64,"cpu":1}}}}],"id":1}}"#
    );
    posted(&body)
}

fn posted(body: &str) -> String {
    format!(
        "POST /_mistify_RPC_ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn full_lanes_leave_health_status_and_poweroff_quick() {
    let scratch = Scratch::new();
    let mut config = InProcess::config();
    config.audit.log = Some(scratch.path().join("audit"));
    let inside = InProcess::start(&config);
    let (agent, address) = (&inside.agent, inside.address);
    let (_, made) = exchange(address, &call("Create", "lanes"));
    assert!(made.text().contains(r#""state":"running""#), "{made:?}");

    let (occupied, release) = bounded::<()>(0);
    let blocked = fill(agent, [Lane::Control, Lane::Storage], &release);
    wait_until("both lanes are full and everybody is in", SOON, || {
        let snapshot = agent.core.pool().snapshot();
        let lanes = snapshot.lanes;
        let busy = |lane: Lane| {
            lanes.iter().any(|it| it.lane == lane && it.running == it.workers && it.queued > 0)
        };
        snapshot.callers.callers == CALLERS && busy(Lane::Control) && busy(Lane::Storage)
    });

    // All calls that change something are under way.
    let share = |number: usize| CallShare {
        class: CallClass::Change,
        user: Share::User(0),
        guest: number.to_string().into(),
    };
    let permits: Vec<_> =
        (0..config.pool.changes).map(|number| agent.core.pool().permit(&share(number))).collect();
    assert!(permits.iter().all(Option::is_some));
    let body = r#"{"method":"Libvirt.Shutdown","params":[{"guest":{"id":"lanes"},"args":{"mistify.timeout":"1"}}],"id":1}"#;
    let (_, late) = exchange(address, &posted(body));
    assert!(late.text().contains(r#""error":"deadline: "#), "{late:?}");
    // Its record is written by a thread of its own.
    let written = wait_for("the record of the late call", SOON, || {
        let written = fs::read_to_string(scratch.path().join("audit")).expect("it is there");
        let of_shutdown = r#""method":"Libvirt.Shutdown","guest":"lanes""#;
        let is_whole = written.ends_with('\n');
        let line = written.lines().find(|line| line.contains(of_shutdown))?;
        is_whole.then(|| line.to_owned())
    });
    assert!(written.contains(r#""error":"deadline: "#), "{written}");
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned();
    for (request, answer) in [
        (health, r#""status":"ok""#),
        (call("Status", "lanes"), r#""state":"running""#),
        (call("Poweroff", "lanes"), r#""state":"shutoff""#),
    ] {
        // A loaded machine delays some answers; a lane that waited for the full ones would answer none.
        wait_until("an answer within 50 ms", SOON, || {
            let (took, reply) = exchange(address, &request);
            assert!(reply.text().contains(answer), "{request}\n{reply:?}");
            took < Duration::from_millis(50)
        });
    }
    let lanes = agent.core.pool().snapshot().lanes;
    let full = lanes.iter().filter(|it| it.running == it.workers && it.queued > 0);
    assert_eq!(full.count(), 2, "control and storage were full all the time: {lanes:?}");

    drop((occupied, permits));
    for caller in blocked {
        caller.join().expect("its job ran");
    }
    exchange(address, &call("Delete", "lanes"));
    inside.end();
}
