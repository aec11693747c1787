"""What a program does before it works: its command line. Standard library only.

``import dre_ssod`` registers the detector with Detectron2 and so takes seconds. Help and wrong
arguments need none of it: a program imports at its top what is quick, and ``dre_ssod``, PyTorch and
Detectron2 inside the functions that use them.
"""
