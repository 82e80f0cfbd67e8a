# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import xml.etree.ElementTree as ET

from minigpt4.data_tools.statistics import Numbers
from minigpt4.data_tools.svg_plots import bar_plot, histogram_plot


def test_bars_above_a_limit_have_another_colour():
    numbers = Numbers()
    for value in range(100):
        numbers.add(value)
    plot = histogram_plot(
        'a < b', numbers.histogram(10), numbers.summary(), limit=50
    )
    root = ET.fromstring(plot)
    bars = root.findall('rect')
    assert len(bars) == 10
    assert len({bar.get('fill') for bar in bars}) == 2
    assert bars[0].find('title').text == '0 to 10: 10'


def test_names_are_escaped():
    root = ET.fromstring(bar_plot('kinds', {'<b>': 3, 'x': 1}))
    assert root.find('rect').find('title').text == '<b>: 3'
