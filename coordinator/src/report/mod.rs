//! What a search was worth: the comparison with the published methods, plots of factors and progress, and retrieval.

pub mod comparison;
pub mod event_line;
pub mod extension;
pub mod factor_plot;
pub mod heat_map;
pub mod length_plot;
pub mod loss_plot;
pub mod page;
pub mod palette;
pub mod progress_plot;
pub mod retrieval;

pub use comparison::{Comparison, Row};
pub use event_line::{event_line, measure};
pub use extension::{ExtensionReport, PerplexityAt, RetrievalRun};
pub use factor_plot::{Curve, factor_plot};
pub use heat_map::heat_map;
pub use length_plot::{LengthCurve, length_plot};
pub use loss_plot::loss_plot;
pub use progress_plot::{Level, progress_plot};
pub use retrieval::Retrieval;

/// A plot that cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// No points, or none that a logarithmic axis can show.
    #[error("nothing to plot: {0}")]
    Nothing(&'static str),
    /// The drawing library failed.
    #[error("the plot cannot be drawn: {0}")]
    Drawing(String),
}
