"""report.json as one self-contained page: `msm_ray.report.html.render_html`."""
