"""Every figure of the project, drawn off screen with matplotlib's object interface.

No function uses pyplot, needs a display or changes matplotlib's settings. Functions that take a
``path`` write there, whole or not at all, in the format that its suffix names, and return it as a
Path; they raise a ValueError if there is nothing to draw or shapes do not fit.
"""
