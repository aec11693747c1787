"""How good detections, pseudo-labels and predicted uncertainties are.

``evaluators`` chooses by protocol among ``coco`` and ``voc``; ``ranking`` ranks the same detections
by several scores; ``pseudo_labels`` compares what the method labels with hidden labels;
``localization`` and ``reliability`` ask whether a detector knows how well its boxes are placed.

This room may use data, detector and methods. It measures: it trains nothing, and writes at most the
detections.
"""
