"""An example suite: three real models on every lane that this machine has.

A voice detector listens to a telephone call, a text recogniser reads a picture, a classifier names
files by their bytes. Every answer is asserted twice: as a person would say it (this is speech, the
picture says "Hello GPU", that file is a PDF) and against onnxruntime on the CPU.

To start a suite of your own, copy this folder into your project and run::

    pip install 'pytest-webaccel[xdist,html,reference]' hypothesis pillow
    python -m pytest_webaccel install
    pytest demo -n 2 --html=report.html

What is where:

``test_audio.py``, ``test_vision.py``, ``test_bytes.py``
    A model a file. Each test asks for the ``webaccel`` fixture and so runs once on each lane.
    Known defects of an engine are expected failures that name the defect; they are strict, so the
    day the engine is mended the test says so.
``test_agreement.py``
    One call, ``webaccel.check``, that holds all lanes against each other.
``test_faults.py``
    The same answers while the connection, the browser or the GPU dies under the request.
``test_inputs.py``, ``test_models.py``
    The truth of the demo itself, without a browser: the recording against its human transcript, the
    pre- and post-processing, the fetching of models.
``speech.py``, ``text.py``, ``filetypes.py``
    Inputs and pre- and post-processing, free of pytest: keep what you need.
``models.py``
    Where models come from. Replace its catalogue with your own, or drop it and give ``webaccel.load``
    the path of a model that you have.
``conftest.py``
    Fixtures that give tests the models and the CPU reference.
"""
