"""Every picture of the project, drawn off screen with matplotlib's object interface.

No function here uses pyplot, needs a display or changes matplotlib's settings; every file is
written whole or not at all.
"""
