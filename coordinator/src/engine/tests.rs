//! The promises of the engine: the same factors whatever happens on the way.

mod again;
mod disturbances;
mod gaps;
mod launch;
mod life;
mod objective;
mod plans;
mod racing;
mod rig;
mod short;
mod threads;
mod trainings;
