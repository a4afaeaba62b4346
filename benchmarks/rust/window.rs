// The article's monitor: a window of samples, summed up whenever somebody asks.
//
//     rustc -O window.rs && ./window WINDOW CALLS
//
// prints the thread-CPU nanoseconds of one add_sample and one is_unhealthy.

use std::collections::VecDeque;
use std::env;
use std::hint::black_box;

struct LatencyMonitor {
    samples: VecDeque<f64>,
    window_size: usize,
    threshold_ms: f64,
}

impl LatencyMonitor {
    fn new(window_size: usize, threshold_ms: f64) -> Self {
        Self { samples: VecDeque::with_capacity(window_size + 1), window_size, threshold_ms }
    }

    fn add_sample(&mut self, ms: f64) {
        if self.samples.len() == self.window_size {
            self.samples.pop_front();
        }
        self.samples.push_back(ms);
    }

    fn is_unhealthy(&self) -> bool {
        if self.samples.len() < self.window_size {
            return false;
        }
        self.samples.iter().sum::<f64>() / self.samples.len() as f64 > self.threshold_ms
    }
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

#[cfg(target_os = "macos")]
const THREAD_CPU_TIME: i32 = 16;
#[cfg(not(target_os = "macos"))]
const THREAD_CPU_TIME: i32 = 3;

fn thread_time_ns() -> i64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    assert_eq!(0, unsafe { clock_gettime(THREAD_CPU_TIME, &mut time) });
    time.seconds * 1_000_000_000 + time.nanoseconds
}

fn main() {
    let arguments: Vec<usize> = env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let (window, calls) = (arguments[0], arguments[1]);
    let mut monitor = LatencyMonitor::new(window, 500.0);
    let mut state: u64 = 42;
    let mut sample = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64 * 100.0
    };
    for _ in 0..window {
        monitor.add_sample(sample());
    }
    let samples: Vec<f64> = (0..1024).map(|_| sample()).collect();
    let mut unhealthy = 0u64;
    let start = thread_time_ns();
    for call in 0..calls {
        monitor.add_sample(black_box(samples[call % 1024]));
        unhealthy += monitor.is_unhealthy() as u64;
    }
    let spent = thread_time_ns() - start;
    black_box(unhealthy);
    println!("{}", spent as f64 / calls as f64);
}
