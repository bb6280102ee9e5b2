"""msm-ray: model spec midtraining on Ray, from a Markdown spec to a report."""

__version__ = "0.1.0"
