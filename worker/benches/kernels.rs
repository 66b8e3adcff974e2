//! Every kernel of the forward pass on one thread: `cargo bench -p ropewalk-worker --bench kernels [NAME]`.
//!
//! Throughput is in floating-point operations a second where the operations are products, in rows a second elsewhere.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement that cannot be made should stop")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const ROWS: usize = 512;

fn kernels(criterion: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut group = criterion.benchmark_group("kernels");
    group.sample_size(10);
    for call in ropewalk_worker::kernels::calls(ROWS).unwrap() {
        group.throughput(Throughput::Elements(call.flops.unwrap_or(ROWS as f64) as u64));
        group.bench_function(call.name, |bencher| pool.install(|| bencher.iter(|| call.run().unwrap())));
    }
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
