"""Pictures for people: detections, views, pseudo-labels, proposals, runs and analyses.

``canvas`` draws boxes on an image and ``layout`` puts pictures together; on them stand ``drawing``,
``panels``, ``data_panels``, ``localization_figure`` and ``run_plots``. ``inspect`` computes what
panels show, ``video`` reads and writes frames.

This room may use everything below training, and only looks: it changes no model, no random state
and no event storage.
"""
